%% Replaces this node's replicas that are listed, run, and stay empty for good: what 3.10 makes of a
%% wiped member. Term 0, seen twice, is a replica that never heard of its leader, so there is
%% nothing in it to lose. It stops after 3 s, so that no beat is missed.
%%
%% Prints: queue|QUEUE|WORD| for each of them: ok, later, no leader, or the error
%% Versions: 3.10 to 3.12 (measured; 4.3 fills them by itself).
Me = node(), End = erlang:monotonic_time(millisecond) + 3000,
Term = fun(VH, N) ->
  case catch rabbit_quorum_queue:status(VH, N) of
    S when is_list(S) -> [proplists:get_value(<<"Term">>, P) || P <- S, proplists:get_value(<<"Node Name">>, P) =:= Me];
    _ -> unknown
  end end,
[begin
  {resource, VH, queue, N} = QN = amqqueue:get_name(Q), {Ra, _} = amqqueue:get_pid(Q),
  Late = erlang:monotonic_time(millisecond) >= End,
  Empty = Term(VH, N) =:= [0] andalso (Late orelse begin timer:sleep(1000), Term(VH, N) =:= [0] end),
  case Empty of
    false -> ok;
    true ->
      case Late of
        true -> io:format("queue|~ts|later|~n", [rabbit_misc:rs(QN)]);
        false ->
          Leaders = [L || X <- rabbit_nodes:all_running(), X =/= Me, {ok, _, L} <- [catch ra:members({Ra, X}, 3000)]],
          case Leaders of
            [] -> io:format("queue|~ts|no leader|~n", [rabbit_misc:rs(QN)]);
            [Leader | _] ->
              catch ra:force_delete_server(quorum_queues, {Ra, Me}),
              catch ra:remove_member(Leader, {Ra, Me}, 5000),
              catch rabbit_quorum_queue:repair_amqqueue_nodes(VH, N),
              io:format("queue|~ts|~0p|~n", [rabbit_misc:rs(QN), catch rabbit_quorum_queue:add_member(VH, N, Me, 5000)])
          end
      end
  end
end || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue], ok.
