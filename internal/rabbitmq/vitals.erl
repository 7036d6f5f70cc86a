%% Says what a person looks at first in a RabbitMQ that runs: alarms, limits, versions, feature flags,
%% queues that need this node, who leads how many queues, whether the cluster has a name, and whether
%% the user that everybody knows gets in. What this version cannot say gets no line.
%%
%% Leaders are those that `rabbitmq-queues rebalance all` would move: of queues with a replica
%% elsewhere. They are counted in the table itself, queue by queue, so that many of them take no
%% memory; where that takes over 2 s, nobody is said to lead any. A member that is drained has no share.
%%
%% Prints: alarm|WHAT|NODE| for each, disk|FREE|LIMIT| and memory|LIMIT|TOTAL| in bytes,
%%   version|NODE|VERSION| for each member that runs, flags|NUMBER| of the stable ones that are
%%   disabled, critical|QUEUE| for each that would stand still without this node, leads|NODE|NUMBER|
%%   for each member that is to lead some, named|BOOLEAN|: without a name each node calls the cluster
%%   by its own, guest|BOOLEAN|
%% Versions: 3.10 to 4.3. Queues that need this node are asked for by two names along the versions,
%%   and all queues are in a table of Mnesia's, or in one that Khepri fills: of two, the one that is
%%   in use has the rows. Mirrors exist up to 3.13; rebalancing moves streams from 4.0 on. A queue's
%%   type state holds its nodes as a list or as a map.
Try = fun(F) -> try F() catch _:_ -> ok end end,
Try(fun() -> [io:format("alarm|~0p|~s|~n", [What, N]) || {{resource_limit, What, N}, _} <- rabbit_alarm:get_alarms()] end),
Try(fun() -> io:format("disk|~b|~b|~n", [rabbit_disk_monitor:get_disk_free(), rabbit_disk_monitor:get_disk_free_limit()]) end),
Try(fun() -> io:format("memory|~b|~b|~n", [vm_memory_monitor:get_memory_limit(), vm_memory_monitor:get_total_memory()]) end),
[case rpc:call(N, rabbit_misc, version, [], 2000) of
  V when is_list(V) -> io:format("version|~s|~s|~n", [N, V]);
  _ -> ok
end || N <- rabbit_nodes:all_running()],
Try(fun() -> io:format("flags|~b|~n", [maps:size(rabbit_feature_flags:list(disabled, stable))]) end),
Few = fun(M) -> Try(fun() -> [io:format("critical|~ts|~n", [maps:get(<<"readable_name">>, Q)]) || Q <- M:list_with_minimum_quorum_for_cli()] end) end,
case length(rabbit_nodes:all()) of 1 -> ok; _ -> [Few(M) || M <- [rabbit_upgrade_preparation, rabbit_quorum_queue], erlang:function_exported(M, list_with_minimum_quorum_for_cli, 0)] end,
Some = fun(L) when is_list(L) -> length(L) > 1; (M) -> maps:size(M) > 1 end,
Mirrors = erlang:function_exported(amqqueue, get_slave_pids, 1),
Streams = erlang:function_exported(rabbit_stream_queue, transfer_leadership, 2),
Moves = fun(Q) ->
  case amqqueue:get_type(Q) of
    rabbit_classic_queue -> Mirrors andalso case amqqueue:get_slave_pids(Q) of [_ | _] -> true; _ -> false end;
    rabbit_stream_queue when not Streams -> false;
    _ -> case amqqueue:get_type_state(Q) of #{nodes := On} -> Some(On); _ -> false end
  end end,
Try(fun() ->
  End = erlang:monotonic_time(millisecond) + 2000,
  May = rabbit_maintenance:filter_out_drained_nodes_local_read(rabbit_nodes:all_running()),
  {_, Table} = lists:max([{Size, T} || T <- [rabbit_queue, rabbit_khepri_queue], Size <- [ets:info(T, size)], is_integer(Size)]),
  Lead = ets:foldl(fun(Q, So) ->
      erlang:monotonic_time(millisecond) < End orelse throw(late),
      case Moves(Q) of true -> maps:update_with(amqqueue:qnode(Q), fun(N) -> N + 1 end, 1, So); false -> So end
    end, maps:from_list([{N, 0} || N <- May]), Table),
  [io:format("leads|~s|~b|~n", [N, maps:get(N, Lead)]) || N <- May]
end),
Try(fun() -> io:format("named|~s|~n", [rabbit_runtime_parameters:value_global(cluster_name) =/= not_found]) end),
Try(fun() -> io:format("guest|~s|~n", [case rabbit_auth_backend_internal:user_login_authentication(<<"guest">>, [{password, <<"guest">>}]) of {ok, _} -> true; _ -> false end]) end), ok.
