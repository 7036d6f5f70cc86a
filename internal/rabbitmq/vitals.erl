%% Says what a person looks at first in a RabbitMQ that runs: alarms, limits, versions, feature flags,
%% queues that need this node, and whether the user that everybody knows gets in. What this version
%% cannot say gets no line.
%%
%% Prints: alarm|WHAT|NODE| for each, disk|FREE|LIMIT| and memory|LIMIT|TOTAL| in bytes,
%%   version|NODE|VERSION| for each member that runs, flags|NUMBER| of the stable ones that are
%%   disabled, critical|QUEUE| for each that would stand still without this node, guest|BOOLEAN|
%% Versions: 3.10 to 4.3. The queues are asked for by two names along the versions.
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
Try(fun() -> io:format("guest|~s|~n", [case rabbit_auth_backend_internal:user_login_authentication(<<"guest">>, [{password, <<"guest">>}]) of {ok, _} -> true; _ -> false end]) end), ok.
