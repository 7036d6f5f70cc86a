%% Makes this node's replica of each quorum queue the only one, whatever majority there was.
%%
%% Returns: nothing that is looked at; a failure is an error
%% Versions: 3.13 to 4.3. 3.10 has no such function.
rabbit_quorum_queue:force_all_queues_shrink_member_to_current_member().
