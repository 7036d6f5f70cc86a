%% Names the quorum queues of which too few replicas run.
%%
%% Prints: queue|QUEUE|needs NODE, NODE| for each of them, with all nodes that have a replica
%% Versions: 3.10 to 3.12, which cannot shrink a queue to one replica.
[io:format("queue|~ts|needs ~s|~n", [rabbit_misc:rs(amqqueue:get_name(Q)),
  string:join([atom_to_list(N) || N <- Ns], ", ")])
|| Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue,
  Ns <- [maps:get(nodes, amqqueue:get_type_state(Q))],
  Up <- [[N || N <- Ns, is_pid(rpc:call(N, erlang, whereis, [element(1, amqqueue:get_pid(Q))], 3000))]],
  2 * length(Up) =< length(Ns)], ok.
