%% Names the queues that would be lost, or stand still, if this cluster forgot a member that is down:
%% quorum queues and streams of whose replicas too few run without it, and durable classic queues
%% that are on it alone. One whose synchronised mirror runs was promoted, and is elsewhere.
%%
%% Parameter Dead: the name of the member, as an atom
%% Prints: queue|QUEUE|only_there|, or queue|QUEUE|runs on NODE, NODE, of NODE, NODE| for each of them
%% Versions: 3.10 to 4.3. A queue's type state holds its nodes as a list or as a map. With Mnesia
%%   rabbit_amqqueue:list/1 lacks queues whose home is down: list_down/1 has them.
Up = rabbit_nodes:all_running() -- [Dead],
J = fun(L) -> string:join([atom_to_list(N) || N <- L], ", ") end,
Say = fun(Q, Word) -> io:format("queue|~ts|~ts|~n", [rabbit_misc:rs(amqqueue:get_name(Q)), Word]) end,
Few = fun(Q, On, Run) ->
  case lists:member(Dead, On) andalso 2 * length(Run) =< length(On) of
    true -> Say(Q, ["runs on ", case Run of [] -> "no node"; _ -> J(Run) end, ", of ", J(On)]);
    false -> ok
  end end,
Look = fun(Q) -> case amqqueue:get_type(Q) of
  rabbit_quorum_queue ->
    On = case maps:get(nodes, amqqueue:get_type_state(Q)) of L when is_list(L) -> L; M -> maps:keys(M) end,
    Few(Q, On, [N || N <- On, lists:member(N, Up), is_pid(rpc:call(N, erlang, whereis, [element(1, amqqueue:get_pid(Q))], 3000))]);
  rabbit_stream_queue ->
    {ok, Ms} = rabbit_stream_coordinator:members(maps:get(name, amqqueue:get_type_state(Q))),
    Few(Q, maps:keys(Ms), [N || {N, {P, _}} <- maps:to_list(Ms), lists:member(N, Up), is_pid(P)]);
  _ ->
    case amqqueue:is_durable(Q) andalso amqqueue:get_exclusive_owner(Q) =:= none andalso amqqueue:get_pid(Q) of
      P when is_pid(P), node(P) =:= Dead -> Say(Q, "only_there");
      _ -> ok
    end
  end end,
[case catch Look(Q) of {'EXIT', Why} -> Say(Q, io_lib:format("~0p", [Why])); _ -> ok end
|| VH <- rabbit_vhost:list(), Q <- lists:usort(rabbit_amqqueue:list(VH) ++ rabbit_amqqueue:list_down(VH))], ok.
