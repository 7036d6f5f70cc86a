%% Stops Mnesia by itself, where mnesia_start.erl started it.
%%
%% Returns: stopped
%% Versions: 3.10 to 4.2 with Mnesia.
mnesia:stop().
