%% Has other nodes evaluate expressions, each as bare.erl has one, for as long as its input is open.
%% This is the program of a bare Erlang VM that stays. It begins once this host has an epmd, which
%% the server's VM brings up.
%%
%% It may bear the gate's name. RabbitMQ that looks for the gate then finds an Erlang VM, and asks
%% it for the members of its cluster, which is a function of rabbit_nodes: one by that name is here,
%% and says nothing, whatever it is asked, until the gate is open, and fails then. So one look lasts
%% until then. RabbitMQ that asks another module hears at once that there is none, and looks again.
%%
%% Takes plain arguments, not parameters: shortnames or longnames, a name of its own, and the
%% gate's name or "".
%% Reads: of descriptor 3 open, or NUMBER, MILLISECONDS that it may take, NODE and EXPRESSION, in
%%   lines of which the last one goes to the end; each behind its size in four bytes
%% Prints: to descriptor 4 in the same way, NUMBER and value, failed or none, and in the lines
%%   behind that what the expression printed and its value, why there is none, or of a node that
%%   did not answer, nothing
%% Versions: all; it is Erlang's own. RabbitMQ 4.3.6 asks for rabbit_nodes:list_members, without a
%%   limit of time.
[Names, Me, Gate] = init:get_plain_arguments(),
Begin = fun(Name) -> net_kernel:start([list_to_atom(Name), list_to_atom(Names)]) end,
{ok, _} = lists:foldl(fun
    (_, {ok, Pid}) -> {ok, Pid};
    (Name, _) -> case Begin(Name) of {ok, Pid} -> {ok, Pid}; No -> timer:sleep(200), No end
  end, none, [Name || _ <- lists:seq(1, 300), Name <- [Gate, Me], Name =/= ""]),
Shut = spawn(fun() -> receive after infinity -> ok end end),
register(gate_is_shut, Shut),
Gate =:= "" orelse begin
  Forms = [begin {ok, Tokens, _} = erl_scan:string(Text), {ok, Form} = erl_parse:parse_form(Tokens), Form end || Text <- [
    "-module(rabbit_nodes).",
    "-export(['$handle_undefined_function'/2]).",
    "'$handle_undefined_function'(_, _) -> Ref = monitor(process, gate_is_shut), receive {'DOWN', Ref, _, _, _} -> error(gate_is_open) end."]],
  {ok, Module, Code} = compile:noenv_forms(Forms, []),
  {module, Module} = code:load_binary(Module, "gate", Code)
end,
Text = fun(Encoding, Chars) -> unicode:characters_to_binary(Chars, Encoding, utf8) end,
Written = fun
    Written({put_chars, Encoding, Chars}) -> {ok, Text(Encoding, Chars)};
    Written({put_chars, Encoding, M, F, Args}) -> {ok, Text(Encoding, apply(M, F, Args))};
    Written({requests, Several}) -> {ok, [element(2, Written(R)) || R <- Several]};
    Written(_) -> {{error, enotsup}, <<>>}
  end,
Paper = fun Paper(Before) -> receive
    {io_request, From, As, Request} ->
      {Reply, More} = try Written(Request) catch _:_ -> {{error, put_chars}, <<>>} end,
      From ! {io_reply, As, Reply},
      Paper([Before | More]);
    {read, To} -> To ! {self(), Before}
  end end,
Ask = fun(On, For, Expr) ->
  Printer = spawn_link(fun() -> Paper([]) end),
  group_leader(Printer, self()),
  {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Expr)),
  {ok, Exprs} = erl_parse:parse_exprs(Tokens),
  Node = binary_to_atom(On, utf8),
  case net_kernel:connect_node(Node) andalso rpc:call(Node, erl_eval, exprs, [Exprs, []], binary_to_integer(For)) of
    {value, Value, _} ->
      io:format("~tp~n", [Value]),
      Printer ! {read, self()},
      receive {Printer, Printed} -> {<<"value">>, Printed} end;
    {badrpc, Why} when Why =/= nodedown, Why =/= timeout -> {<<"failed">>, Text(unicode, io_lib:format("~0tp", [Why]))};
    _ -> {<<"none">>, <<>>}
  end end,
Port = open_port({fd, 3, 4}, [{packet, 4}, binary, eof]),
(fun Serve() -> receive
    {Port, {data, <<"open">>}} -> exit(Shut, kill), Serve();
    {Port, {data, Question}} ->
      [Number, For, On, Expr] = lists:foldl(fun(_, Lines) ->
          lists:droplast(Lines) ++ string:split(lists:last(Lines), "\n")
        end, [Question], [1, 2, 3]),
      spawn(fun() ->
        {How, What} = try Ask(On, For, Expr) catch _:Reason -> {<<"failed">>, Text(unicode, io_lib:format("~0tp", [Reason]))} end,
        port_command(Port, [Number, "\n", How, "\n", What]),
        exit(shutdown) % and its printer with it
      end),
      Serve();
    {Port, eof} -> halt(0)
  end end)().
