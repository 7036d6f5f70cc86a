%% Asks what this node does in a minority.
%%
%% Returns: {ok, pause_minority}, {ok, ignore}, or another mode that the user chose
%% Versions: 3.10 to 4.2 with Mnesia, which alone has partitions.
application:get_env(rabbit, cluster_partition_handling).
