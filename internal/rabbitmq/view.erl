%% Prints what the asked node knows of its cluster: the cluster's id, its members, those that run,
%% those this node is partitioned from, whether members decide by majority, the connected nodes,
%% whether this node pauses in a minority, whether its server is being stopped, and where it takes
%% AMQP connections, and whether by the PROXY protocol only, and where its management and Prometheus
%% plugins listen, and when its Erlang VM started, by its host's clock. A listener that is suspended,
%% as all are in maintenance mode, has freed its port, and counts for none. Of two members
%% on Mnesia it says whether both have a replica of some quorum queue. In a partition it also says of
%% itself and each connected member with whom it runs and from whom it is partitioned; a member that
%% cannot be asked gets no line, and one whose Mnesia does not run gets empty lists.
%%
%% Prints: view|ID|MEMBERS|RUNNING|PARTITIONS|KHEPRI|CONNECTED| and pauses|BOOLEAN|STOPS| and
%%   started|MICROSECONDS SINCE 1970|, of two members paired|BOOLEAN|, then a line
%%   listener|amqp or amqp/ssl|IP|PORT|PROXY| or web|PROTOCOL|IP|PORT| for each, then, if partitioned, a line
%%   side|NODE|WITH|FROM| for each node; lists have commas
%% Versions: 3.10 to 4.3. Functions were renamed along the versions: the newer name is tried first.
%%   rabbit_nodes:list_members and list_running are missing in 3.10, where they are all and
%%   all_running; 3.10 has no rabbit_khepri. Only 4.3 always has Khepri, and it has no partitions.
Any = fun(Fs) -> lists:foldl(fun
    (_, {ok, V}) -> {ok, V};
    ({M, F}, E) -> try {ok, M:F()} catch _:_ -> E end
  end, none, Fs) end,
Id = case Any([{rabbit_nodes, persistent_cluster_id}]) of {ok, I} -> I; _ -> "" end,
{ok, Ms} = Any([{rabbit_nodes, list_members}, {rabbit_nodes, all}]),
{ok, Rs} = Any([{rabbit_nodes, list_running}, {rabbit_nodes, all_running}]),
Ps = case Any([{rabbit_node_monitor, partitions}]) of {ok, L} when is_list(L) -> L; _ -> [] end,
K = Any([{rabbit_khepri, is_enabled}]) =:= {ok, true}
  orelse Any([{rabbit_khepri, get_ra_cluster_name}]) =/= none andalso not erlang:function_exported(rabbit_khepri, is_enabled, 0),
J = fun(L) -> string:join([atom_to_list(N) || N <- L, is_atom(N)], ",") end,
io:format("view|~s|~s|~s|~s|~s|~s|~n", [Id, J(Ms), J(Rs), J(Ps), K, J(nodes())]),
io:format("pauses|~s|~s|~n", [application:get_env(rabbit, cluster_partition_handling) =:= {ok, pause_minority},
  case init:get_status() of {stopping, _} -> true; _ -> false end]),
io:format("started|~b|~n", [erlang:convert_time_unit(erlang:system_info(start_time) + erlang:time_offset(), native, microsecond)]),
K orelse length(Ms) =/= 2 orelse io:format("paired|~s|~n", [try lists:any(fun(Q) ->
    amqqueue:get_type(Q) =:= rabbit_quorum_queue andalso case maps:get(nodes, amqqueue:get_type_state(Q)) of
      Ns2 when is_list(Ns2) -> length(Ns2) > 1;
      Ns2 -> maps:size(Ns2) > 1
    end end, rabbit_amqqueue:list()) catch _:_ -> false end]),
Open = fun(A, Port) -> try ranch:get_status(rabbit_networking:ranch_ref(A, Port)) =/= suspended catch _:_ -> true end end,
Ls = [Row || Row = {listener, _, _, _, A, Port, _} <- try rabbit_networking:node_listeners(node()) catch _:_ -> [] end, Open(A, Port)],
[io:format("listener|~s|~s|~b|~s|~n", [P, inet:ntoa(A), Port, application:get_env(rabbit, proxy_protocol) =:= {ok, true}])
  || {listener, _, P, _, A, Port, _} <- Ls, P =:= amqp orelse P =:= 'amqp/ssl', is_list(inet:ntoa(A))],
[io:format("web|~s|~s|~b|~n", [P, inet:ntoa(A), Port]) || {listener, _, P, _, A, Port, _} <- Ls,
  lists:member(P, [http, https, 'http/prometheus', 'https/prometheus']), is_list(inet:ntoa(A))],
Ps =:= [] orelse begin
  Ns = [N || N <- Ms, lists:member(N, nodes())],
  {Froms, _} = gen_server:multi_call(Ns, rabbit_node_monitor, partitions, 2000),
  Say = fun(N, With, From) -> io:format("side|~s|~s|~s|~n", [N, J(With), J(From)]) end,
  Say(node(), mnesia:system_info(running_db_nodes), Ps),
  [case A of
    {ok, With} -> Say(N, With, proplists:get_value(N, Froms, []));
    {error, {erpc, _}} -> ok;
    _ -> Say(N, [], [])
  end || {N, A} <- lists:zip(Ns, erpc:multicall(Ns, mnesia, system_info, [running_db_nodes], 2000))]
end, ok.
