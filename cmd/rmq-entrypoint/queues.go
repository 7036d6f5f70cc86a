package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Queues survive the loss of a node in two ways. Up to RabbitMQ 3.13 a policy
// mirrors them, which the seed sets before it announces its cluster: once, and
// what becomes of it then is the user's. From 4.0 they are quorum queues, by
// settings in rabbitmq.config (rabbitconf.Queues).

// mirrorPolicy is the name of the policy in each virtual host.
const mirrorPolicy = "rmq-entrypoint-mirrors"

// mirrorExpr sets the policy in each virtual host that has none of its name. Of
// two that match a queue RabbitMQ takes the one with the higher priority, and 0 is
// a user's default: any policy of the user's wins. An unsynchronised mirror is
// never promoted, or confirmed messages would vanish.
const mirrorExpr = `Name = <<"` + mirrorPolicy + `">>,
Def = [{<<"ha-mode">>, <<"all">>}, {<<"ha-sync-mode">>, <<"automatic">>}, {<<"ha-promote-on-failure">>, <<"when-synced">>}, {<<"ha-promote-on-shutdown">>, <<"when-synced">>}],
[io:format("queue|~ts|~0p|~n", [VH, case [P || P <- rabbit_policy:list(VH), proplists:get_value(name, P) =:= Name] of
  [] -> catch rabbit_policy:set(VH, Name, <<".*">>, Def, -1000, <<"queues">>, <<"rmq-entrypoint">>);
  _ -> ok
end]) || VH <- rabbit_vhost:list()], ok.`

// mirror has queues mirrored to all nodes, where the version mirrors, and says
// what keeps it from that. What RabbitMQ refuses, as where the user does not permit
// mirroring, is said in the log and holds nothing up.
func (c *companion) mirror(ctx context.Context) string {
	if !c.rt.Config.survivingQueues() || c.atLeast(4, 0) {
		return ""
	}
	said, err := c.broker.perQueue(ctx, mirrorExpr)
	if err != nil {
		return fmt.Sprintf("the policy that mirrors queues cannot be set (--queues, RMQ_QUEUES): %v", err)
	}
	var hosts []string
	for host, word := range said {
		if word == "ok" {
			hosts = append(hosts, host)
		} else {
			c.log.Warn("queues are not mirrored here: RabbitMQ refuses the policy", "vhost", host, "policy", mirrorPolicy, "why", word)
		}
	}
	slices.Sort(hosts)
	c.log.Info("queues are mirrored to all nodes", "policy", mirrorPolicy, "vhosts", strings.Join(hosts, ","))
	return ""
}

// pair says what a cluster of two members cannot survive, or "". Not at once: a
// third may be about to join.
func (c *companion) pair() string {
	if len(c.view.Members) != 2 {
		c.two = time.Time{}
		return ""
	}
	if c.two.IsZero() {
		c.two = time.Now()
	}
	if time.Since(c.two) < 2*c.rt.Config.TTL {
		return ""
	}
	switch {
	case c.view.Khepri:
		return "TWO NODES: this cluster does not survive the loss of either, because RabbitMQ 4.2 and later decide by majority: add a third node"
	case c.atLeast(4, 0) && c.rt.Config.survivingQueues():
		return "TWO NODES: quorum queues with a replica on both do not survive the loss of either: add a third node, or set --queues (RMQ_QUEUES) to off"
	}
	return ""
}

// A node that joins, or joins again with a blank volume, has no replica of the
// quorum queues there are: RabbitMQ leaves them where they were declared, or lets
// them grow in its own time (from 4.0, rabbitconf.Queues). What follows brings them
// here at once, and says so.

// regrowExprs are what brings replicas here on this version. A user who keeps the
// queues to himself still gets back what a wiped volume took.
func (c *companion) regrowExprs() []string {
	few := 1
	if c.rt.Config.survivingQueues() {
		few = 3
	}
	exprs := []string{fmt.Sprintf(growExpr, few)}
	if !c.atLeast(3, 13) {
		exprs = append(exprs, refillExpr)
	}
	return exprs
}

// growExpr adds this node to the quorum queues that have too few replicas
// or an even number of them, which is what a queue is left with whose
// replica here was forgotten. It stops after 3 s, so that no beat is missed.
const growExpr = `Me = node(), End = erlang:monotonic_time(millisecond) + 3000,
[begin
  {resource, VH, queue, N} = QN = amqqueue:get_name(Q),
  On = case maps:get(nodes, amqqueue:get_type_state(Q)) of L when is_list(L) -> L; M -> maps:keys(M) end,
  case lists:member(Me, On) orelse length(On) >= %d andalso length(On) rem 2 =:= 1 of
    true -> ok;
    false ->
      case erlang:monotonic_time(millisecond) < End of
        false -> io:format("queue|~ts|later|~n", [rabbit_misc:rs(QN)]);
        true -> io:format("queue|~ts|~0p|~n", [rabbit_misc:rs(QN), catch rabbit_quorum_queue:add_member(VH, N, Me, 5000)])
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
        true -> io:format("queue|~ts|later|~n", [rabbit_misc:rs(QN)]);
        false ->
          Leaders = [L || X <- rabbit_nodes:all_running(), X =/= Me, {ok, _, L} <- [catch ra:members({Ra, X}, 3000)]],
          case Leaders of
            [] -> io:format("queue|~ts|no leader|~n", [rabbit_misc:rs(QN)]);
            [Leader | _] ->
              catch ra:force_delete_server(quorum_queues, {Ra, Me}),
              catch ra:remove_member(Leader, {Ra, Me}, 5000),
              catch rabbit_quorum_queue:repair_amqqueue_nodes(VH, N),
              io:format("queue|~ts|~0p|~n", [rabbit_misc:rs(QN), catch rabbit_quorum_queue:add_member(VH, N, Me, 5000)])
          end
      end
  end
end || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue], ok.`

// unavailableExpr names the quorum queues of which too few replicas run.
const unavailableExpr = `[io:format("queue|~ts|needs ~s|~n", [rabbit_misc:rs(amqqueue:get_name(Q)), string:join([atom_to_list(N) || N <- Ns], ", ")])
|| Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue, Ns <- [maps:get(nodes, amqqueue:get_type_state(Q))],
Up <- [[N || N <- Ns, is_pid(rpc:call(N, erlang, whereis, [element(1, amqqueue:get_pid(Q))], 3000))]], 2 * length(Up) =< length(Ns)], ok.`

// perQueue runs an expression that prints one line a queue and returns what it
// said of each.
func (b broker) perQueue(ctx context.Context, expr string) (map[string]string, error) {
	return b.each(ctx, cliTimeout, expr)
}

// each is perQueue for what may take longer.
func (b broker) each(ctx context.Context, d time.Duration, expr string) (map[string]string, error) {
	out, err := b.within(ctx, d, b.node, "eval", expr)
	if err != nil {
		return nil, err
	}
	said := map[string]string{}
	for line := range strings.Lines(out) {
		line, ok := strings.CutPrefix(strings.TrimSuffix(strings.TrimSpace(line), "|"), "queue|")
		if i := strings.LastIndex(line, "|"); ok && i >= 0 { // a name may hold what parts it from the word
			said[line[:i]] = line[i+1:]
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
	var grown, failed []string
	left, busy := false, error(nil)
	for _, expr := range c.regrowExprs() {
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
