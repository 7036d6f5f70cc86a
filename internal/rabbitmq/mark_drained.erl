%% Marks this node as being drained: RabbitMQ puts no replicas here any more. Nothing stops yet.
%%
%% Returns: true, or false if the mark could not be set
%% Versions: 3.10 to 4.3.
rabbit_maintenance:mark_as_being_drained().
