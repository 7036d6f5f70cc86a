%% Counts the queues of the cluster.
%%
%% Prints: queues|NUMBER|
%% Versions: 3.10 to 4.3.
io:format("queues|~b|~n", [length(rabbit_amqqueue:list())]), ok.
