%% Restarts RabbitMQ within its Erlang VM, by the process with which it pauses: if that is at work
%% already, it does the same. As in any minority RabbitMQ comes back when a majority of the VMs is
%% there. Those who go on forget a partition only when everybody else has stopped, so that is waited
%% for, up to a minute. What cannot start again ends the server, whose restart decides afresh. The
%% process is linked to the one that starts it, which must not be the one that ends with an answer
%% to rabbitmqctl.
%%
%% Returns: ok, before RabbitMQ has stopped
%% Versions: 3.10 to 4.2 with Mnesia. 4.3 has no partitions and no such process.
Ms = lists:usort([node() | mnesia:system_info(db_nodes)]),
Alive = fun() -> [N || N <- Ms, N =:= node() orelse net_adm:ping(N) =:= pong] end,
Listed = fun(Ns) ->
  {Ps, _} = gen_server:multi_call(Ns -- [node()], rabbit_node_monitor, partitions, 2000),
  lists:any(fun({_, L}) -> is_list(L) andalso lists:member(node(), L) end, Ps)
end,
Now = fun() -> erlang:monotonic_time(millisecond) end,
Wait = fun W(End) ->
  Ns = Alive(),
  case 2 * length(Ns) =< length(Ms) orelse Now() < End andalso Listed(Ns) of
    true -> timer:sleep(500), W(End);
    false -> ok
  end end,
Restart = fun() -> try rabbit:stop(), Wait(Now() + 60000), ok = rabbit:start() catch _:_ -> init:stop(1) end end,
spawn(fun() -> rabbit_node_monitor:run_outside_applications(Restart, false) end), ok.
