%% Sets the policy that mirrors queues in each virtual host that has none of its name. Of two that
%% match a queue RabbitMQ takes the one with the higher priority, and 0 is a user's default: any
%% policy of the user's wins. An unsynchronised mirror is never promoted, or confirmed messages
%% would vanish.
%%
%% Parameter Name: the name of the policy, a binary
%% Prints: queue|VHOST|WORD| for each virtual host: ok, or why RabbitMQ refuses
%% Versions: 3.10 to 3.13. From 4.0 there are no mirrors.
Def = [{<<"ha-mode">>, <<"all">>}, {<<"ha-sync-mode">>, <<"automatic">>},
  {<<"ha-promote-on-failure">>, <<"when-synced">>}, {<<"ha-promote-on-shutdown">>, <<"when-synced">>}],
[io:format("queue|~ts|~0p|~n", [VH, case [P || P <- rabbit_policy:list(VH), proplists:get_value(name, P) =:= Name] of
  [] -> catch rabbit_policy:set(VH, Name, <<".*">>, Def, -1000, <<"queues">>, <<"rmq-entrypoint">>);
  _ -> ok
end]) || VH <- rabbit_vhost:list()], ok.
