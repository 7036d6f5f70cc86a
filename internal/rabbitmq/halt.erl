%% Stops the server with status 1, so that a restart policy starts it again.
%%
%% Returns: ok, before the server has stopped
%% Versions: all; it is Erlang's own.
init:stop(1).
