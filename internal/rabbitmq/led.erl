%% Asks whether the members that decide by majority have a leader.
%%
%% Prints: led|true|, led|false|, or led|unknown| where it cannot be told
%% Versions: those with Khepri. On others the answer is unknown.
io:format("led|~s|~n", [case catch ra:members({rabbitmq_metadata, node()}, 2000) of
  {ok, _, _} -> true;
  {timeout, _} -> false;
  _ -> unknown
end]), ok.
