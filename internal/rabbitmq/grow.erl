%% Adds this node to the quorum queues that have too few replicas or an even number of them, which
%% is what a queue is left with whose replica here was forgotten. It stops after 3 s, so that no
%% beat is missed.
%%
%% Parameter Few: a queue with fewer replicas gets one here; 1 leaves it to an even number alone
%% Prints: queue|QUEUE|WORD| for each of them: ok, later, or the error
%% Versions: 3.10 to 4.3. A queue's type state holds its nodes as a list or as a map.
Me = node(), End = erlang:monotonic_time(millisecond) + 3000,
[begin
  {resource, VH, queue, N} = QN = amqqueue:get_name(Q),
  On = case maps:get(nodes, amqqueue:get_type_state(Q)) of L when is_list(L) -> L; M -> maps:keys(M) end,
  case lists:member(Me, On) orelse length(On) >= Few andalso length(On) rem 2 =:= 1 of
    true -> ok;
    false ->
      case erlang:monotonic_time(millisecond) < End of
        false -> io:format("queue|~ts|later|~n", [rabbit_misc:rs(QN)]);
        true -> io:format("queue|~ts|~0p|~n", [rabbit_misc:rs(QN), catch rabbit_quorum_queue:add_member(VH, N, Me, 5000)])
      end
  end
end || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue], ok.
