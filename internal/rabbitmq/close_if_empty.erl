%% Closes this node to clients, so that none declares a queue any more, and counts the queues of the
%% cluster then. Where there are some it opens again. What a client had asked for before is done
%% when its connection is gone, for which this waits 5 s at most.
%%
%% Prints: queues|NUMBER|
%% Versions: 3.10 to 4.3.
rabbit_maintenance:suspend_all_client_listeners(),
rabbit_maintenance:close_all_client_connections(),
(fun Gone(0) -> ok;
     Gone(N) ->
    case rabbit_networking:local_connections() of
        [] -> ok;
        _ -> timer:sleep(100), Gone(N - 1)
    end
end)(50),
Queues = length(rabbit_amqqueue:list()),
case Queues of
    0 -> ok;
    _ -> rabbit_maintenance:resume_all_client_listeners()
end,
io:format("queues|~b|~n", [Queues]), ok.
