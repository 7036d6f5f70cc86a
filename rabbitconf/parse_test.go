package rabbitconf

import (
	"strings"
	"testing"
)

func show(terms []Term) string {
	var b strings.Builder
	for _, t := range terms {
		t.render(&b)
		b.WriteString(".\n")
	}
	return b.String()
}

var terms = []struct{ in, want string }{
	// What RabbitMQ's documentation shows.
	{`[{rabbit, [{tcp_listeners, [5672]}, {collect_statistics_interval, 10000}]}].`,
		`[{rabbit,[{tcp_listeners,[5672]},{collect_statistics_interval,10000}]}].`},
	{`[{rabbit, [{tcp_listeners, [{"127.0.0.1", 5672}, {"::1", 5672}]}]}].`,
		`[{rabbit,[{tcp_listeners,[{"127.0.0.1",5672},{"::1",5672}]}]}].`},
	{`{ssl_options, [{password, <<"t0p$ecret">>}, {versions, ['tlsv1.2', 'tlsv1.3']}, {verify, verify_peer}]}.`,
		`{ssl_options,[{password,<<"t0p$ecret">>},{versions,['tlsv1.2','tlsv1.3']},{verify,verify_peer}]}.`},
	{`{shovels, [{my_shovel, [{ack_mode, on_confirm}, {reconnect_delay, 2.5}]}]}.`,
		`{shovels,[{my_shovel,[{ack_mode,on_confirm},{reconnect_delay,2.5}]}]}.`},
	{`{tag_queries, [{administrator, {constant, false}}, {management, {in_group, "cn=a," "ou=b"}}]}.`,
		`{tag_queries,[{administrator,{constant,false}},{management,{in_group,"cn=a,ou=b"}}]}.`},
	{`{sni_fun, fun my_tls : sni/1}.`, `{sni_fun,fun my_tls:sni/1}.`},
	// Atoms.
	{`abc. a_b@c1. 'a b'. 'it\'s'. ''. 'abc'. 'Abc'. 'if'. maybe. 'x\ny'.`,
		"abc.\n'a_b@c1'.\n'a b'.\n'it\\'s'.\n''.\nabc.\n'Abc'.\n'if'.\n'maybe'.\n'x\\x{A}y'."},
	// Numbers.
	{`1. -1. - 1. +1. 1_000_000. 16#fF. -2#101. 36#zz. $a. $\n. $\s. $ . -$a. $\x{1F600}. 123456789012345678901234567890. -9223372036854775808.`,
		"1.\n-1.\n-1.\n1.\n1000000.\n255.\n-5.\n1295.\n97.\n10.\n32.\n32.\n-97.\n128512.\n123456789012345678901234567890.\n-9223372036854775808."},
	{`1.0. -2.5e3. 1.0e+16. 1.0e300. 2.5E-7.`, "1.0.\n-2500.0.\n1.0e+16.\n1.0e+300.\n2.5e-07."},
	// Strings and binaries.
	{`"". "a\"b\\". "\t\x41\x{20AC}\101\^a\d\e\0". "a\
b". "a" "b"   "c".`,
		"\"\".\n\"a\\\"b\\\\\".\n\"\\x{9}A\\x{20AC}A\\x{1}\\x{7F}\\x{1B}\\x{0}\".\n\"a\\x{A}b\".\n\"abc\"."},
	{`<<>>. <<"">>. <<"a\"b">>. <<"caf\x{e9}">>. <<"caf\x{e9}"/utf8>>. <<1,2,$a,-1,256>>. <<"a", 98, "c" "d">>.`,
		"<<>>.\n<<>>.\n<<\"a\\\"b\">>.\n<<99,97,102,233>>.\n<<99,97,102,195,169>>.\n<<1,2,97,255,0>>.\n<<\"abcd\">>."},
	// Containers.
	{`{}. []. [a|b]. [a,b|[c,d]]. [a|[b|c]]. [[a]|b]. #{}. #{a => 1, "k" => [x]}. {a , % why
b}.`,
		"{}.\n[].\n[a|b].\n[a,b,c,d].\n[a,b|c].\n[[a]|b].\n#{}.\n#{a => 1,\"k\" => [x]}.\n{a,b}."},
	// Encoding: Latin-1 unless it says otherwise.
	{"\"\xe9\".", `"\x{E9}".`},
	{"\"\xc3\xa9\".", `"\x{C3}\x{A9}".`},
	{"%% -*- coding: utf-8 -*-\n\"\xc3\xa9\".", `"\x{E9}".`},
	{"\n% vim: fileencoding=UTF-8\n<<\"\xc3\xa9\"/utf8>>.", `<<195,169>>.`},
	{"%% coding: latin-1\n\"\xe9\".", `"\x{E9}".`},
	{"%% \n%%\n%% coding: utf-8, on the third line\n\"\xc3\xa9\".", `"\x{C3}\x{A9}".`},
	// Nothing.
	{"", ""}, {" % only a comment", ""},
	{"a.%comment", "a."},
}

func TestParse(t *testing.T) {
	for _, test := range terms {
		got, err := parse([]byte(test.in))
		if err != nil {
			t.Errorf("parse %s: %v", test.in, err)
			continue
		}
		if out := strings.TrimSuffix(show(got), "\n"); out != test.want {
			t.Errorf("parse %s\n got %s\nwant %s", test.in, out, test.want)
		}
	}
}

var badTerms = []struct{ in, want string }{
	{"[a", "line 1: expected"},
	{"[a,\n b c].", "line 2: expected \",\", found 'c'"},
	{"[a}.", "line 1"},
	{"a", "line 1: expected \".\", found the end of the file"},
	{"a.b.", "expected \".\""},
	{"[\n\n\"abc", "line 3: the file ends in the middle of a term"},
	{"'abc", "the file ends"},
	{"[\n  Var].", "line 2: variables and expressions"},
	{"_.", "variables"},
	{`["a" ++ "b"].`, "line 1: expected \",\", found '+'"},
	{`os:getenv("HOME").`, `expected "."`},
	{"fun() -> ok end.", "fun module:name/arity"},
	{"fun m:f.", `expected "/"`},
	{"end.", "reserved word"},
	{`<<1:16>>.`, "sizes and types"},
	{`<<"a"/utf16>>.`, "only utf8"},
	{`<<a>>.`, "a string or a byte"},
	{`<<1.5>>.`, "a string or a byte"},
	{"\"\"\"\nabc\n\"\"\".", "triple-quoted"},
	{`~"abc".`, "expected a term, found '~'"},
	{`#rec{a=1}.`, "expected a term, found '#'"},
	{`#{a 1}.`, `expected "=>"`},
	{`37#12.`, "37#12 is not a number"},
	{`2#3.`, "2#3 is not a number"},
	{`16#.`, "is not a number"},
	{`1.0e999.`, "is not a number"},
	{`1.0e.`, "is not a number"},
	{`--1.`, "a number after the sign"},
	{`"\x{110000}".`, "is not a character"},
	{`"\x{D800}".`, "is not a character"},
	{`"\xzz".`, "is not a character"},
	{"[|a].", "expected a term"},
	{"[a|b,c].", `expected "]"`},
	{"%% coding: utf-8\n\"\xe9\".", "says it is UTF-8 and is not"},
	{strings.Repeat("[", 2000), "nested more than 1000 deep"},
}

func TestParseRefuses(t *testing.T) {
	for _, test := range badTerms {
		got, err := parse([]byte(test.in))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("parse %.40q = %s, %v, want an error with %q", test.in, show(got), err, test.want)
		}
	}
}

// An escape that is none may be a piece of a password.
func TestParseQuotesNoPassword(t *testing.T) {
	for _, in := range []string{`[{default_pass, <<"pa\x{ss-hunter2}">>}].`, `"\x{hunter2".` + "\n{a, b}.", `'\xhunter2'.`, `"hunter2\x{D800}`} {
		if _, err := parse([]byte(in)); err == nil || strings.Contains(err.Error(), "unter2") {
			t.Errorf("parse %q: %v", in, err)
		}
	}
}
