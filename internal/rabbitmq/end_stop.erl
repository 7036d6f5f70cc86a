%% Ends the server at once if it is stopping, as after a SIGTERM: what it has confirmed is on disk.
%% A server whose application alone was stopped goes on.
%%
%% Prints: stopping|true|, and then the server ends with status 0, or stopping|false|
%% Versions: all; it is Erlang's own.
Stopping = case init:get_status() of {stopping, _} -> true; _ -> false end,
io:format("stopping|~s|~n", [Stopping]),
Stopping andalso spawn(fun() -> timer:sleep(200), erlang:halt(0, [{flush, false}]) end), ok.
