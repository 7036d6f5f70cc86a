package config

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// Quotes are themselves where they do not enclose a whole item, and a comma is one's where they do.
func TestLists(t *testing.T) {
	for text, want := range map[string][]string{
		`a"b`:             {`a"b`},
		`a"b,c`:           {`a"b`, `c`},
		`"a`:              {`"a`},
		`"a,b`:            {`"a`, `b`},
		`a",b"`:           {`a"`, `b"`},
		`"a"b,c`:          {`"a"b`, `c`},
		`say "hi" to,b`:   {`say "hi" to`, `b`},
		`"a,b"`:           {`a,b`},
		`"a,b",c`:         {`a,b`, `c`},
		` "a,b" , c `:     {`a,b`, `c`},
		`"a""b,"`:         {`a"b,`},
		`"""a"""`:         {`"a"`},
		`"a,b","c,d"`:     {`a,b`, `c,d`},
		"a,b\n":           {`a`, `b`},
		`rabbitmq="x=1,y`: {`rabbitmq="x=1`, `y`},
	} {
		cfg, err := FromEnvironment(expect.Environ("RMQ_TAGS="+text, "CONSUL_HTTP_ADDR=a:1,b:2"))
		if err != nil || !slices.Equal(cfg.Tags, want) || len(cfg.Consul) != 2 {
			t.Errorf("%s: %q, %v, want %q", text, cfg.Tags, err, want)
		}
	}
	for text, want := range map[string]map[string]string{
		`note=5"disk,zone=a`:        {"note": `5"disk`, "zone": "a"},
		`zone=a,note=5"`:            {"note": `5"`, "zone": "a"},
		`"note=x,y",zone=a`:         {"note": "x,y", "zone": "a"},
		`zone=a, "note=x=1,""y"""`:  {"note": `x=1,"y"`, "zone": "a"},
		`note=x,y`:                  {"note": "x,y"}, // a pair alone needs no quotes
		`note="x,y"`:                {"note": `"x,y"`},
		`"note=x,y"`:                {"note": "x,y"},
		`"note= x ",zone= a , b=c `: {"note": " x ", "zone": " a", "b": "c"},
	} {
		cfg, err := FromEnvironment(expect.Environ("RMQ_META=" + text))
		if err != nil || !maps.Equal(cfg.Meta, want) {
			t.Errorf("%s: %q, %v, want %q", text, cfg.Meta, err, want)
		}
	}
	for variable, say := range map[string][]string{
		`RMQ_META=note="x,y",zone=b`: {`RMQ_META="note=\"x,y\",zone=b"`, `"y\"" is no key=value`, `in quotes, as "note=a,b",zone=a`},
		`RMQ_META=zone`:              {`"zone" is no key=value`},
		`RMQ_TAGS=a,,b`:              {`in quotes, as "a,b",ssd`},
		"RMQ_TAGS=a\nb":              {`"a\nb"`, "a line break", "commas"},
		`RMQ_TAGS="",b`:              {"an empty tag"},
	} {
		_, err := FromEnvironment(expect.Environ(variable))
		if err == nil {
			t.Errorf("%s is taken", variable)
			continue
		}
		expect.Says(t, err.Error(), say...)
	}
}

// What is set is set again from its own text, as from a runtime file, and a flag that is given
// again adds to it.
func TestListsAgain(t *testing.T) {
	for _, all := range [][]string{{"a"}, {`a"b`, "c,d", `"e"`, " f "}, {`","`, `""`, `,`}, {`a,"b",c`, `"`}} {
		var got, again []string
		l := &list{p: &got}
		for _, item := range all {
			expect.Must(t, l.Set(joined([]string{item})))
		}
		expect.Must(t, (&list{p: &again}).Set(l.String()))
		if !slices.Equal(got, all) || !slices.Equal(again, all) {
			t.Errorf("%q: %q, and again %q", all, got, again)
		}
	}
	var got, again map[string]string
	m := &pairs{p: &got}
	expect.Must(t, m.Set("b=c,d"))
	expect.Must(t, m.Set(`a="x,e= ,f="""`))
	expect.Must(t, (&pairs{p: &again}).Set(m.String()))
	if want := map[string]string{"b": "c,d", "a": `"x`, "e": "", "f": `"""`}; !maps.Equal(got, want) || !maps.Equal(again, want) {
		t.Errorf("%q, and again %q", got, again)
	}
	if strings.Contains(m.String(), "[") {
		t.Errorf("text %s", m)
	}
}
