%% Makes this node the home of the classic queues whose home is lost: it may hold a mirror of them,
%% or have been their home before. Otherwise RabbitMQ would throw that copy away at its boot, and
%% delete the queue when it forgets the node. It needs that table alone, and Mnesia must run; it
%% comes before the boot goes on (measured on 3.10.8, waiting and paused).
%%
%% Parameter Lost: the names of the lost nodes, as atoms
%% Returns: {atomic, _}; anything else is an error
%% Versions: 3.10 to 3.13, which have mirrors.
mnesia:force_load_table(rabbit_durable_queue),
{atomic, _} = mnesia:sync_transaction(fun() ->
  [mnesia:write(rabbit_durable_queue, amqqueue:set_pid(Q, rabbit_misc:node_to_fake_pid(node())), write)
  || Q <- mnesia:match_object(rabbit_durable_queue, amqqueue:pattern_match_all(), write),
     amqqueue:get_type(Q) =:= rabbit_classic_queue, is_pid(amqqueue:get_pid(Q)),
     lists:member(node(amqqueue:get_pid(Q)), Lost)]
end).
