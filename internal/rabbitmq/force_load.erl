%% Has Mnesia load its tables without the members for which it waits: RabbitMQ goes on with its
%% boot.
%%
%% Returns: nothing that is looked at; a failure is an error
%% Versions: 3.10 to 4.2 with Mnesia (measured on 3.10 and 4.0). With Khepri it is
%%   rabbitmqctl force_standalone_khepri_boot.
rabbit_table:force_load().
