%% Has another node evaluate an expression. This is the program of a bare Erlang VM.
%% It prints what the expression prints at the node, and its value, as rabbitmqctl does: a call
%% takes its caller's group leader along. A name needs an epmd on this host, which only a VM that is
%% named from the start brings up: where no server runs yet, the first attempt fails. If there is no
%% answer, epmd on the node's host tells more, for people: what it tells is not relied on, since
%% Erlang calls a name server that does not answer nxdomain, too.
%%
%% Takes plain arguments, not parameters: shortnames or longnames, its own name, the node, and the
%% expression.
%% Prints: what the expression prints, and its value. If there is none it prints why on stderr,
%%   and its status is 1.
%% Versions: all; it is Erlang's own (measured on OTP 25, 27 and 29).
[Names, Me, On, Expr] = init:get_plain_arguments(),
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
end.
