%% Prints what Mnesia on this node knows while it waits, or is stopped: its members, those of them
%% that still ran when this node stopped, for which it waits when it boots, and whether RabbitMQ
%% pauses in a minority.
%%
%% Prints: waits|MEMBERS|WAITED_FOR|PAUSED|, lists with commas
%% Versions: 3.10 to 4.2 with Mnesia.
Ms = mnesia:system_info(db_nodes),
Ws = try [N || N <- Ms, N =/= node(), not mnesia_recover:has_mnesia_down(N)] catch _:_ -> [] end,
J = fun(L) -> string:join([atom_to_list(N) || N <- L], ",") end,
io:format("waits|~s|~s|~s|~n", [J(Ms), J(Ws), whereis(rabbit_outside_app_process) =/= undefined]), ok.
