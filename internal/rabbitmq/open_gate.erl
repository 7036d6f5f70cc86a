%% Tells a node that looks for others whom to look for, unless it started before the one that is
%% there: RabbitMQ would have that one join it. RabbitMQ reads cluster_nodes at each try. A boot that
%% has not come that far may read its files later, which undo this.
%%
%% Parameter Nodes: those to look for, this node among them; of this node alone it founds a cluster
%% Parameter After: when the one that is there started, in microseconds since 1970, by its clock; 0 if
%%   RabbitMQ prefers those that are there anyhow
%% Parameter Names: none, or what to call the cluster that it founds
%% Prints: gate|told|, gate|knew| if it had been told the same before, or gate|elder| if it is not told
%% Returns: ok
%% Versions: 4.2 to 4.3. Earlier ones boot when they may join, with cluster_nodes in their files.
Started = erlang:convert_time_unit(erlang:system_info(start_time) + erlang:time_offset(), native, microsecond),
case Started > After of
  true ->
    Was = application:get_env(rabbit, cluster_nodes),
    application:set_env(rabbit, cluster_nodes, {Nodes, disc}),
    [application:set_env(rabbit, cluster_name, Name) || Name <- Names],
    io:format("gate|~s|~n", [case Was =:= {ok, {Nodes, disc}} of true -> knew; false -> told end]);
  false -> io:format("gate|elder|~n")
end, ok.
