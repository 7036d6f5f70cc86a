%% Starts Mnesia by itself, in a VM in which RabbitMQ paused, so that its tables can be changed.
%%
%% Returns: ok
%% Versions: 3.10 to 4.2 with Mnesia.
mnesia:start().
