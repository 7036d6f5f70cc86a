package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
)

// `rabbitmqctl eval` starts all of Elixir to have a node evaluate an expression: 1.2 s
// of CPU, and most of what a companion does is such a question. A bare Erlang VM with
// the same settings does it for 0.2 s.

// bare returns what does the same as an argv of [broker.within] for less. Where RabbitMQ's
// scripts are not as we know them it is the argv itself.
func (c config) bare(argv []string) []string {
	if len(argv) != 6 || argv[0] != "rabbitmqctl" || argv[4] != "eval" {
		return argv
	}
	ctl, err := exec.LookPath(argv[0])
	if err == nil {
		ctl, err = filepath.EvalSymlinks(ctl)
	}
	env := filepath.Join(filepath.Dir(ctl), "rabbitmq-env")
	if err == nil {
		_, err = os.Stat(env)
	}
	if err == nil {
		_, err = exec.LookPath("erl")
	}
	if err != nil {
		return argv
	}
	return bareErlang(env, c.LongNames, argv[3], argv[5])
}

// bareErlang returns the argv that has node evaluate expr, given where rabbitmq-env is.
func bareErlang(env string, longNames bool, node, expr string) []string {
	names := "shortnames"
	if longNames {
		names = "longnames"
	}
	// Each name stays in the atom tables of all nodes: few, and enough for those that
	// are in use at a time.
	me := fmt.Sprintf("rmq-entrypoint-%d", rand.IntN(10000))
	return []string{"sh", "-c", bareScript, env, bareExpr, names, me, node, expr}
}

// bareScript starts the VM as RabbitMQ's command line does, with the settings that
// rabbitmq-env ($0) has from the environment and the user's rabbitmq-env.conf, as for
// TLS between nodes. ERL_FLAGS is replaced there, too. Of two equal flags the last one
// counts, so the user's are behind ours.
const bareScript = `set -a; . "$0"; expr=$1 ERL_CRASH_DUMP_SECONDS=0; shift
ERL_FLAGS="+S 1:1 +SDio 1 +sbwt none -boot start_clean $RABBITMQ_CTL_ERL_ARGS -kernel inet_dist_listen_min $RABBITMQ_CTL_DIST_PORT_MIN -kernel inet_dist_listen_max $RABBITMQ_CTL_DIST_PORT_MAX"
exec erl +B -noinput -hidden -eval "$expr" -extra "$@"`

// bareExpr prints what the expression prints at the node, and its value, as rabbitmqctl
// does: a call takes its caller's group leader along. A name needs an epmd on this host,
// which only a VM that is named from the start brings up: where no server runs yet, the
// first attempt fails. If there is no answer, epmd on the node's host tells more, for
// people: what it tells is not relied on (see [witness]), since Erlang calls a name server
// that does not answer nxdomain, too.
const bareExpr = `[Names, Me, On, Expr] = init:get_plain_arguments(),
Fail = fun(Format, Args) -> io:format(standard_error, Format ++ "~n", Args), halt(1) end,
io:setopts(user, [{encoding, unicode}]),
try
  Start = fun() -> net_kernel:start([list_to_atom(Me), list_to_atom(Names)]) end,
  {ok, _} = case Start() of
    {ok, _} = Ok -> Ok;
    _ -> os:cmd("erl -sname epmd-of-" ++ Me ++ " -noinput -s erlang halt"), Start()
  end,
  {ok, Tokens, _} = erl_scan:string(Expr),
  {ok, Exprs} = erl_parse:parse_exprs(Tokens),
  Node = list_to_atom(On), [Name, Host] = string:split(On, "@"),
  case net_kernel:connect_node(Node) andalso rpc:call(Node, erl_eval, exprs, [Exprs, []]) of
    {value, Value, _} -> io:format("~tp~n", [Value]), halt(0);
    {badrpc, Why} -> Fail("~0tp", [Why]);
    false ->
      Because = case net_adm:names(list_to_atom(Host)) of
        {error, address} ->
          Port = list_to_integer(os:getenv("ERL_EPMD_PORT", "4369")),
          case gen_tcp:connect(Host, Port, [], 3000) of
            {error, econnrefused} -> "no epmd listens on its host";
            Unreachable -> io_lib:format("epmd on its host is out of reach: ~0tp", [Unreachable])
          end;
        {error, Lookup} -> io_lib:format("its host: ~0tp, or no name server answers", [Lookup]);
        {ok, Known} ->
          case lists:keymember(Name, 1, Known) of
            true -> "its host knows it, but it does not let this one in (another Erlang cookie or other TLS settings?), or its port is out of reach";
            false -> "it does not run, says epmd on its host"
          end
      end,
      Fail("~ts does not answer: ~ts", [On, Because])
  end
catch _:Reason -> Fail("~0tp", [Reason])
end.`
