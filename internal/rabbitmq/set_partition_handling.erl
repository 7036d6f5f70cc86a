%% Sets what this node does in a minority. RabbitMQ reads it when a node goes down.
%%
%% Parameter Mode: pause_minority or ignore
%% Returns: ok
%% Versions: 3.10 to 4.2 with Mnesia, which alone has partitions.
application:set_env(rabbit, cluster_partition_handling, Mode).
