package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"rmq-entrypoint/rabbitconf"
	"rmq-entrypoint/tests/rabbittest"
)

// lodged returns a command line with a resident in the container of RabbitMQ, and what was
// started as its VM.
func lodged(m *rabbittest.RabbitMQ) (b CLI, r *resident, started *[]*exec.Cmd) {
	started = new([]*exec.Cmd)
	r = &resident{start: func(gate string) *exec.Cmd {
		cmd := m.Command(append([]string{"sh"}, residentArgs(envScript, false, gate)...)...)
		*started = append(*started, cmd)
		return cmd
	}}
	return CLI{Node: "rabbit@node1", Resident: r}, r, started
}

// A resident that is none, that ends, that says what is no answer or nothing, knows nothing, and
// nobody waits for it for longer than his own time.
func TestResidentKnowsNothing(t *testing.T) {
	t.Parallel()
	const echo = "exec cat" // a question is no answer
	for name, script := range map[string]string{
		"ends":          "exit 0",
		"echoes":        echo,
		"too long":      `printf '\377\377\377\377'; exec cat`,
		"cut short":     `printf '\000\000\000\012x'`,
		"of one line":   `printf '\000\000\000\003abc'; exec cat`,
		"of no number":  `printf '\000\000\000\011x\nvalue\ny'; exec cat`,
		"never started": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &resident{start: func(string) *exec.Cmd {
				if script == "" {
					return nil
				}
				return exec.Command("sh", "-c", script)
			}}
			r.Stay("")
			r.Unhold()
			for range 3 {
				if out, knows, err := r.ask(t.Context(), "rabbit@a", "ok."); out != "" || knows || err != nil {
					t.Errorf("it knows %q, %t, %v", out, knows, err)
				}
			}
			r.Retire()
			if out, knows, err := r.ask(t.Context(), "rabbit@a", "ok."); out != "" || knows || err != nil {
				t.Errorf("in the end it knows %q, %t, %v", out, knows, err)
			}
		})
	}

	// One that stands still is not waited for, and what it does not read is soon no longer said.
	r := &resident{start: func(string) *exec.Cmd { return exec.Command("sleep", "600") }}
	r.Stay("")
	defer r.Retire()
	ctx, cut := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cut()
	if _, knows, err := r.ask(ctx, "rabbit@a", "ok."); !knows || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%t, %v", knows, err)
	}
	if len(r.asked) > 0 {
		t.Error("what was cut short is remembered")
	}
	if out, knows, err := r.ask(t.Context(), "rabbit@a", strings.Repeat("x", 1<<20)); out != "" || knows || err != nil {
		t.Errorf("it knows %q, %t, %v", out, knows, err)
	}
	if out, knows, err := r.ask(t.Context(), "rabbit@a", "ok."); out != "" || knows || err != nil {
		t.Errorf("it knows %q, %t, %v", out, knows, err)
	}
}

// What it says is what was said to that question, whichever way the answers come.
func TestResidentAnswers(t *testing.T) {
	t.Parallel()
	r := &resident{start: func(string) *exec.Cmd {
		// Reads two questions, and answers the second one before the first one.
		return exec.Command("sh", "-c", `head -c 1 >/dev/null; sleep 0.3; printf '\000\000\000\013%s\000\000\000\012%s\000\000\000\010%s' "2
failed
ab" "1
value
x
" "7
none
a"; exec cat >/dev/null`)
	}}
	r.Stay("")
	defer r.Retire()
	first := make(chan string)
	go func() {
		out, knows, err := r.ask(t.Context(), "rabbit@a", "first.")
		first <- fmt.Sprintf("%q %t %v", out, knows, err)
	}()
	rabbittest.Until(t, "the first question is asked", func() (any, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.number, r.number == 1
	})
	if out, knows, err := r.ask(t.Context(), "rabbit@a", "second."); out != "" || !knows || err == nil || err.Error() != "rabbit@a: ab" {
		t.Errorf("%q, %t, %v", out, knows, err)
	}
	if got := <-first; got != `"x\n" true <nil>` {
		t.Error(got)
	}
}

// What stays says what a VM that is started for a question says, to many at a time, and knows
// nothing of what does not answer.
func TestResident(t *testing.T) {
	m := rabbittest.Start(t, "-e", "RABBITMQ_ERLANG_COOKIE=secret")
	b, r, started := lodged(m)
	ask := func(node, expr string) (string, bool, error) {
		ctx, done := context.WithTimeout(t.Context(), CLITimeout)
		defer done()
		return r.ask(ctx, node, expr)
	}
	if out, knows, err := ask(b.Node, "ok."); knows || err != nil || out != "" {
		t.Errorf("before it is there: %q, %t, %v", out, knows, err)
	}
	rabbittest.Until(t, "epmd knows RabbitMQ", func() (any, bool) {
		out, err := m.TryExec("epmd", "-names")
		return out, err == nil && strings.Contains(out, "name rabbit at")
	})
	b.Stay("")
	b.Stay("")
	rabbittest.Until(t, "RabbitMQ runs", func() (any, bool) {
		out, knows, err := ask(b.Node, "rabbit:is_running().")
		return out, knows && err == nil && out == "true\n"
	})
	m.Exec(t, "rabbitmqctl", "-q", "eval", `rabbit_amqqueue:declare({resource, <<"/">>, queue, <<"жук|1"/utf8>>}, true, false, [], none, <<"guest">>), ok.`)
	for _, expr := range []string{
		erlang("view"), `[io:format("queue|~ts|ok|~n", [element(4, amqqueue:get_name(Q))]) || Q <- rabbit_amqqueue:list()], ok.`,
		`io:put_chars("ä€"), "1|2" ++ "я".`, "lists:seq(1, 100000).", `[io:format("~b~n", [N]) || N <- lists:seq(1, 2000)], ok.`,
	} {
		want, err := m.TryExec(bareErlang(envScript, false, b.Node, expr)...)
		if got, knows, failed := ask(b.Node, expr); err != nil || failed != nil || !knows || strings.TrimSpace(got) != want {
			t.Errorf("%.80q gives %.300q, %t, %v; a VM of its own %.300q, %v", expr, got, knows, failed, want, err)
		}
	}
	for expr, says := range map[string]string{"exit(nonsense).": "nonsense", "1 + a.": "badarith", "syntax(": "badmatch"} {
		if out, knows, err := ask(b.Node, expr); !knows || err == nil || !strings.Contains(err.Error(), says) || out != "" {
			t.Errorf("%q: %q, %t, %v", expr, out, knows, err)
		}
	}
	for _, node := range []string{"rabbit@nowhere", "another@node1", "rabbit@localhost"} {
		if out, knows, err := ask(node, "ok."); knows || err != nil || out != "" {
			t.Errorf("of %s it knows %q, %t, %v", node, out, knows, err)
		}
	}

	// One that takes its time keeps nobody waiting, and one that is cut short ends at once.
	ctx, cut := context.WithCancel(t.Context())
	var slow sync.WaitGroup
	slow.Go(func() {
		if out, knows, err := r.ask(ctx, b.Node, "timer:sleep(60000)."); !knows || err == nil || out != "" {
			t.Errorf("cut short: %q, %t, %v", out, knows, err)
		}
	})
	for range 20 {
		if out, knows, err := ask(b.Node, "2 + 2."); !knows || err != nil || out != "4\n" {
			t.Fatalf("beside a slow one: %q, %t, %v", out, knows, err)
		}
	}
	cut()
	slow.Wait()

	// Its end leaves nobody waiting, and no second one comes.
	slow.Go(func() {
		if out, knows, err := ask(b.Node, "timer:sleep(60000)."); knows || err != nil || out != "" {
			t.Errorf("at its end: %q, %t, %v", out, knows, err)
		}
	})
	rabbittest.Until(t, "the question is on its way", func() (any, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.asked, len(r.asked) == 1
	})
	b.Retire()
	slow.Wait()
	b.Stay("")
	if out, knows, err := ask(b.Node, "ok."); knows || err != nil || out != "" || len(*started) != 1 {
		t.Errorf("after its end: %q, %t, %v; started %d", out, knows, err, len(*started))
	}
	rabbittest.Until(t, "no VM is left", func() (any, bool) {
		out, _ := m.TryExec("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[g]ate_is_shut'")
		return out, out == "0"
	})
}

// RabbitMQ that looks for the gate looks once for as long as it is shut, and goes by what it was
// told as soon as it is open. Where nobody stands at the gate, it looks again and again.
func TestResidentAtTheGate(t *testing.T) {
	m := rabbittest.Start(t, "-e", "RABBITMQ_ERLANG_COOKIE=secret", "-e", "RABBITMQ_LOG=debug", "-e", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+
		`-rabbit cluster_nodes {['gate@node1','rabbit@node1'],disc} -rabbit cluster_formation [{discovery_retry_limit,1000000},{discovery_retry_interval,100}]`)
	if v, err := rabbitconf.ParseVersion(m.Exec(t, "printenv", "RABBITMQ_VERSION")); err != nil || !v.HoldsBack() {
		t.Skipf("no gate holds %v (%v)", v, err)
	}
	b, r, _ := lodged(m)
	looks := func() int {
		return strings.Count(m.Logs(), "Peer discovery: backend returned")
	}
	rabbittest.Until(t, "it looks again and again where nobody is", func() (any, bool) { n := looks(); return n, n > 2 })
	b.Stay("gate@node1")
	var held int
	rabbittest.Until(t, "it stays with one look", func() (any, bool) {
		held = looks()
		time.Sleep(4 * time.Second)
		return held, looks() == held
	})
	ctx, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	if out, knows, err := r.ask(ctx, "rabbit@node1", "application:set_env(rabbit, cluster_nodes, {['rabbit@node1'], disc})."); !knows || err != nil || out != "ok\n" {
		t.Fatalf("%q, %t, %v", out, knows, err)
	}
	time.Sleep(2 * time.Second)
	if n := looks(); n != held {
		t.Errorf("it looked %d times while the gate was shut", n-held)
	}
	began := time.Now()
	b.Unhold()
	rabbittest.Until(t, "it looks again", func() (any, bool) { n := looks(); return n, n == held+1 })
	t.Logf("%s after that it looked again", time.Since(began))
	rabbittest.Until(t, "it founds", func() (any, bool) {
		out, knows, err := r.ask(ctx, "rabbit@node1", "rabbit:is_running().")
		return out, knows && err == nil && out == "true\n"
	})
}
