%% Asks whether this node is in maintenance mode.
%%
%% Prints: maintenance|true| or maintenance|false|
%% Versions: 3.10 to 4.3.
io:format("maintenance|~p|~n", [rabbit_maintenance:is_being_drained_local_read(node())]), ok.
