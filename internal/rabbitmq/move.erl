%% Moves what lies on this node, in about 10 s. A quorum queue or a stream that would be left with
%% an even number of replicas gets one on another node first. A quorum queue's replica goes when
%% another one leads, which then has all that was confirmed; leadership is given only to one that
%% has caught up, or the queue would stand still meanwhile. A stream's goes when most of the others
%% have all that its writer has confirmed. A classic queue can only stay behind in a synchronised
%% mirror; while one cannot, nothing moves, unless Forced.
%%
%% Parameter Forced: true moves the rest although classic queues are on this node alone
%% Prints: queue|QUEUE|WORD| for each queue that lay here: ok, later, {only_here,MESSAGES}, or
%%   the error
%% Versions: 3.10 to 4.3. Mirrors exist up to 3.13. A queue's type state holds its nodes as a list
%%   or as a map; a replica's status has "Membership" and "Last Written" in newer versions only,
%%   where the log index stands in for the latter.
Me = node(),
End = erlang:monotonic_time(millisecond) + 10000,
Stay = rabbit_maintenance:filter_out_drained_nodes_local_read(rabbit_nodes:all_running() -- [Me]),
Grow = fun(Kept, Add) ->
  case {length(Kept) rem 2, Stay -- Kept} of
    {0, [New | _]} -> Add(New);
    {0, []} when Kept =:= [] -> {error, no_other_node};
    _ -> ok
  end end,
Until = fun Again(Holds, N) ->
  case Holds() of
    true -> true;
    false when N =:= 0 -> false;
    false -> timer:sleep(200), Again(Holds, N - 1)
  end end,
Nodes = fun(Q) -> case maps:get(nodes, amqqueue:get_type_state(Q)) of L when is_list(L) -> L; M -> maps:keys(M) end end,
Leader = fun(Ra, On) ->
  case [L || X <- On, {ok, _, {_, L}} <- [catch ra:members({Ra, X}, 3000)]] of
    [L | _] -> L;
    [] -> none
  end end,
Caught = fun(VH, N) ->
  Rows = [{
      proplists:get_value(<<"Node Name">>, P),
      proplists:get_value(<<"Membership">>, P, voter),
      proplists:get_value(<<"Last Written">>, P, proplists:get_value(<<"Log Index">>, P)),
      proplists:get_value(<<"Commit Index">>, P)
    } || P <- rabbit_quorum_queue:status(VH, N)],
  [X || {X, voter, Has, _} <- Rows, lists:member(X, Stay), is_integer(Has),
    {Y, _, _, Commit} <- Rows, Y =:= Me, is_integer(Commit), Has >= Commit] end,
Quorum = fun(Q, VH, N) ->
  {Ra, _} = amqqueue:get_pid(Q), On = Nodes(Q),
  case lists:member(Me, On) of
    false -> none;
    true ->
      case Grow(On -- [Me], fun(New) -> rabbit_quorum_queue:add_member(VH, N, New, 10000) end) of
        ok ->
          {ok, Now} = rabbit_amqqueue:lookup(amqqueue:get_name(Q)),
          Asked = [Me | Nodes(Now) -- [Me]],
          Away = fun() -> not lists:member(Leader(Ra, Asked), [Me, none]) end,
          Gone = case Leader(Ra, Asked) of
            Me ->
              case Caught(VH, N) of
                [To | _] -> ra:transfer_leadership({Ra, Me}, {Ra, To}), Until(Away, 15);
                [] -> false
              end;
            _ -> Away()
          end,
          case Gone of true -> rabbit_quorum_queue:delete_member(VH, N, Me); false -> later end;
        Refused -> Refused
      end
  end end,
Stream = fun(Q, VH, N) ->
  Id = maps:get(name, amqqueue:get_type_state(Q)),
  {ok, Ms} = rabbit_stream_coordinator:members(Id), On = maps:keys(Ms),
  case lists:member(Me, On) of
    false -> none;
    true ->
      case Grow(On -- [Me], fun(New) -> rabbit_stream_queue:add_replica(VH, N, New) end) of
        ok ->
          Most = fun() ->
            {ok, Now} = rabbit_stream_coordinator:members(Id),
            Others = maps:keys(Now) -- [Me],
            Rows = rabbit_stream_queue:status(VH, N),
            Confirmed = [O || R <- Rows, proplists:get_value(role, R) =:= writer,
              O <- [proplists:get_value(committed_offset, R)], is_integer(O)],
            Same = [X || R <- Rows, X <- [proplists:get_value(node, R)], lists:member(X, Others),
              O <- [proplists:get_value(offset, R)], is_integer(O), C <- Confirmed, O >= C],
            2 * length(Same) > length(Others) end,
          case Until(Most, 15) of true -> rabbit_stream_queue:delete_replica(VH, N, Me); false -> later end;
        Refused -> Refused
      end
  end end,
Classic = fun(Q) ->
  case amqqueue:is_durable(Q) andalso amqqueue:get_exclusive_owner(Q) =:= none
    andalso is_pid(amqqueue:get_pid(Q)) andalso node(amqqueue:get_pid(Q)) =:= Me of
    false -> none;
    true ->
      Mirrors = fun(F) ->
        case catch amqqueue:F(Q) of
          L when is_list(L) -> [P || P <- L, lists:member(node(P), Stay)];
          _ -> []
        end end,
      case {Mirrors(get_sync_slave_pids), Mirrors(get_slave_pids)} of
        {[_ | _], _} -> none;
        {[], [_ | _]} -> later;
        _ ->
          case catch rabbit_amqqueue:info(Q, [messages]) of
            [{messages, C}] -> {only_here, C};
            _ -> {only_here, unknown}
          end
      end
  end end,
All = rabbit_amqqueue:list(),
Say = fun(Q, Word) -> io:format("queue|~ts|~0p|~n", [rabbit_misc:rs(amqqueue:get_name(Q)), Word]) end,
Here = [{Q, Word} || Q <- All, amqqueue:get_type(Q) =:= rabbit_classic_queue,
  Word <- [catch Classic(Q)], Word =/= none],
[Say(Q, Word) || {Q, Word} <- Here],
[begin
  {resource, VH, queue, N} = amqqueue:get_name(Q),
  case erlang:monotonic_time(millisecond) < End of
    false -> Say(Q, later);
    true -> case catch Move(Q, VH, N) of none -> ok; Word -> Say(Q, Word) end
  end
end || Forced orelse [] =:= [Q || {Q, {only_here, _}} <- Here],
  {Type, Move} <- [{rabbit_quorum_queue, Quorum}, {rabbit_stream_queue, Stream}],
  Q <- All, amqqueue:get_type(Q) =:= Type], ok.
