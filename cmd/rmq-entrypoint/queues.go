package main

import (
	"context"
	"fmt"
	"strings"
)

// A node that joins, or joins again with a blank volume, has no replica of the
// quorum queues there are: RabbitMQ leaves them where they were declared. What
// follows brings back what was lost, and says so.

// growExpr adds this node to the quorum queues that have fewer than three
// replicas or an even number of them, which is what a queue is left with whose
// replica here was forgotten. It stops after 3 s, so that no beat is missed.
const growExpr = `Me = node(), End = erlang:monotonic_time(millisecond) + 3000,
[begin
  {resource, VH, queue, N} = QN = amqqueue:get_name(Q),
  On = case maps:get(nodes, amqqueue:get_type_state(Q)) of L when is_list(L) -> L; M -> maps:keys(M) end,
  case lists:member(Me, On) orelse length(On) >= 3 andalso length(On) rem 2 =:= 1 of
    true -> ok;
    false ->
      case erlang:monotonic_time(millisecond) < End of
        false -> io:format("queue|~s|later|~n", [rabbit_misc:rs(QN)]);
        true -> io:format("queue|~s|~0p|~n", [rabbit_misc:rs(QN), catch rabbit_quorum_queue:add_member(VH, N, Me, 5000)])
      end
  end
end || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue], ok.`

// refillExpr replaces this node's replicas that are listed, run, and stay empty
// for good: what 3.10 makes of a wiped member (measured; 4.3 fills them by
// itself). Term 0, seen twice, is a replica that never heard of its leader, so
// there is nothing in it to lose.
const refillExpr = `Me = node(), End = erlang:monotonic_time(millisecond) + 3000,
Term = fun(VH, N) ->
  case catch rabbit_quorum_queue:status(VH, N) of
    S when is_list(S) -> [proplists:get_value(<<"Term">>, P) || P <- S, proplists:get_value(<<"Node Name">>, P) =:= Me];
    _ -> unknown
  end end,
[begin
  {resource, VH, queue, N} = QN = amqqueue:get_name(Q), {Ra, _} = amqqueue:get_pid(Q),
  Late = erlang:monotonic_time(millisecond) >= End,
  Empty = Term(VH, N) =:= [0] andalso (Late orelse begin timer:sleep(1000), Term(VH, N) =:= [0] end),
  case Empty of
    false -> ok;
    true ->
      case Late of
        true -> io:format("queue|~s|later|~n", [rabbit_misc:rs(QN)]);
        false ->
          Leaders = [L || X <- rabbit_nodes:all_running(), X =/= Me, {ok, _, L} <- [catch ra:members({Ra, X}, 3000)]],
          case Leaders of
            [] -> io:format("queue|~s|no leader|~n", [rabbit_misc:rs(QN)]);
            [Leader | _] ->
              catch ra:force_delete_server(quorum_queues, {Ra, Me}),
              catch ra:remove_member(Leader, {Ra, Me}, 5000),
              catch rabbit_quorum_queue:repair_amqqueue_nodes(VH, N),
              io:format("queue|~s|~0p|~n", [rabbit_misc:rs(QN), catch rabbit_quorum_queue:add_member(VH, N, Me, 5000)])
          end
      end
  end
end || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue], ok.`

// unavailableExpr names the quorum queues of which too few replicas run.
const unavailableExpr = `[io:format("queue|~s|needs ~s|~n", [rabbit_misc:rs(amqqueue:get_name(Q)), string:join([atom_to_list(N) || N <- Ns], ", ")])
|| Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue, Ns <- [maps:get(nodes, amqqueue:get_type_state(Q))],
Up <- [[N || N <- Ns, is_pid(rpc:call(N, erlang, whereis, [element(1, amqqueue:get_pid(Q))], 3000))]], 2 * length(Up) =< length(Ns)], ok.`

// perQueue runs an expression that prints one line a queue and returns what it
// said of each.
func (b broker) perQueue(ctx context.Context, expr string) (map[string]string, error) {
	out, err := b.ctl(ctx, b.node, "eval", expr)
	if err != nil {
		return nil, err
	}
	said := map[string]string{}
	for line := range strings.Lines(out) {
		if f := strings.Split(strings.TrimSpace(line), "|"); f[0] == "queue" && len(f) >= 3 {
			said[f[1]] = f[2]
		}
	}
	return said, nil
}

// regrow brings this node's replicas of quorum queues back, a few a beat, until
// there is nothing left to do or it has failed ten times.
func (c *companion) regrow(ctx context.Context) {
	if c.regrows == 0 {
		return
	}
	exprs := []string{growExpr}
	if !c.atLeast(3, 13) {
		exprs = append(exprs, refillExpr)
	}
	var grown, failed []string
	left, busy := false, error(nil)
	for _, expr := range exprs {
		said, err := c.broker.perQueue(ctx, expr)
		if err != nil { // busy, as a node that has just joined is
			left, busy = true, err
			break
		}
		for queue, word := range said {
			switch word {
			case "ok":
				grown = append(grown, queue)
			case "later":
				left = true
			default:
				left, failed = true, append(failed, fmt.Sprintf("%s: %s", queue, word))
			}
		}
	}
	if len(grown) > 0 {
		c.log.Info("quorum queues have a replica here again", "queues", len(grown), "names", strings.Join(grown, "; "))
	}
	if busy != nil || len(failed) > 0 {
		c.regrows--
	}
	if busy != nil {
		c.log.Info("cannot look yet whether quorum queues lack a replica here", "tries_left", c.regrows, "why", busy)
	}
	if len(failed) > 0 {
		c.log.Warn("quorum queues without a replica here", "tries_left", c.regrows, "why", strings.Join(failed, "; "))
	}
	if !left {
		c.regrows = 0
	}
}
