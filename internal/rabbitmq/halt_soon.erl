%% Stops the server with status 0 after two seconds: late enough for the command that asks for it
%% to end before its container does.
%%
%% Returns: ok
%% Versions: all; it is Erlang's own.
spawn(fun() -> timer:sleep(2000), init:stop(0) end), ok.
