package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/companion"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// A peer's refusal counts only while it lists the node, and any peer will do.
func TestForgotten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		forget map[string]string // peer → its refusal
		listed string            // members in the eyes of those that answer
		err    string
	}{
		{"the first one does it", map[string]string{"c@h": "down"}, "", ""},
		{"the second one does it", map[string]string{"a@h": "down"}, "", ""},
		{"it was done before", map[string]string{"a@h": "not a member", "c@h": "not a member"}, "a@h,c@h", ""},
		{"they refuse", map[string]string{"a@h": "still running", "c@h": "still running"}, "a@h,b@h,c@h", "still running"},
	} {
		run := func(_ context.Context, argv ...string) (string, error) {
			peer := argv[3]
			switch {
			case argv[4] == "forget_cluster_node" && argv[5] != "b@h":
				t.Errorf("%s: %q", c.name, argv)
			case argv[4] == "forget_cluster_node" && c.forget[peer] != "":
				return "", errors.New(c.forget[peer])
			case argv[4] == "eval" && c.listed != "":
				return fmt.Sprintf("view|id|%s|a@h,c@h||true|\n", c.listed), nil
			case argv[4] == "eval":
				return "", errors.New("no answer")
			}
			return "", nil
		}
		o := operator{broker: rabbitmq.CLI{Node: "b@h", Run: run}, patience: 200 * time.Millisecond}
		err := o.forgotten(t.Context(), peers.Record{Members: map[string]string{"a@h": "va", "c@h": "vc"}})
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Replicas that do not move are waited for, and then refused or, forced, given up.
func TestMoveReplicas(t *testing.T) {
	t.Parallel()
	const stuck = "queue|queue 'q' in vhost '/'|later|\n"
	for _, c := range []struct {
		name     string
		said     []string // of RabbitMQ, one after the other; the last one stays
		force    bool
		err, out string
		asked    int
	}{
		{name: "nothing here", said: []string{""}, asked: 1},
		{name: "one round and a look", said: []string{"queue|a|ok|\nqueue|b|ok|\n", ""}, out: "replicas moved: 2", asked: 2},
		{name: "stuck", said: []string{stuck}, err: "queue 'q' in vhost '/': later"},
		{name: "stuck and forced", said: []string{stuck}, force: true, out: "given up with this node: queue 'q'"},
		{name: "an error that passes", said: []string{"queue|a|{error,timeout}|\n", "queue|a|ok|\n", ""}, out: "replicas moved: 1", asked: 3},
		{name: "only here", said: []string{"queue|c|{only_here,0}|\n"}, err: "c (messages: 0)", asked: 1},
		{name: "no answer", said: nil, err: "no answer", asked: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			run := func(context.Context, ...string) (string, error) {
				asked++
				if c.said == nil {
					return "", errors.New("no answer")
				}
				return c.said[min(asked, len(c.said))-1], nil
			}
			var out strings.Builder
			o := operator{broker: rabbitmq.CLI{Node: "a", Run: run}, out: &out, force: c.force, patience: 1500 * time.Millisecond}
			err := o.moveReplicas(t.Context())
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || !strings.Contains(out.String(), c.out) {
				t.Errorf("%v, %s", err, out.String())
			}
			if c.asked > 0 && asked != c.asked || c.asked == 0 && asked < 2 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}

// A side of a partition may hold what the others lack.
func TestMayNotLeavePartitioned(t *testing.T) {
	t.Parallel()
	all := names("a,b,c")
	o := operator{broker: rabbitmq.CLI{Node: "a"}, rt: statedir.Runtime{Volume: "va"}}
	if why := o.critical(t.Context(), peers.View{Members: all, Running: all, Partitions: names("b")}); !strings.Contains(why, "partitioned from b") {
		t.Errorf("drain says %q", why)
	}
	r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"a": "va", "b": "vb", "c": "vc"}}
	if err := o.mayLeave(r, peers.View{ClusterID: "id", Members: all, Running: all}); err != nil {
		t.Error(err)
	}
	err := o.mayLeave(r, peers.View{ClusterID: "id", Members: all, Running: all, Partitions: names("b")})
	if err == nil || !strings.Contains(err.Error(), "partitioned from b") {
		t.Errorf("got %v", err)
	}
}

// Consul goes away as the node is taken off the record: where it cannot be told
// whether it is off, it must not serve again.
func TestLeaveUnheard(t *testing.T) {
	t.Parallel()
	c := consultest.Start(t)
	write := consultest.Request("PUT", "/v1/txn")
	for name, tt := range map[string]struct {
		fault   func(l *consultest.Link, read consultest.Match, touch func())
		err     string // of moveOut, "": it is off the record
		ordered bool   // it stays out of service
	}{
		"the answer is lost":     {func(l *consultest.Link, _ consultest.Match, _ func()) { l.LoseAnswer(1, write) }, "", true},
		"another node is faster": {func(_ *consultest.Link, _ consultest.Match, touch func()) { touch() }, "", true},
		"the write is refused":   {func(l *consultest.Link, _ consultest.Match, _ func()) { l.Answer(1, 500, "no", write) }, "write cluster record", false},
		"and it is seen at a second look": {func(l *consultest.Link, read consultest.Match, _ func()) {
			l.LoseAnswer(1, write)
			l.Answer(1, 500, "no", read)
		}, "", true},
		"and the record cannot be read": {func(l *consultest.Link, read consultest.Match, _ func()) {
			l.LoseAnswer(1, write)
			l.Answer(99, 500, "no", read)
		}, "stays out of service", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, link := testVolume(t), consultest.Proxy(t, c.Addr)
			cfg := config.Config{Consul: []string{link.Addr}, Service: "s", KeyPrefix: rand.Text(), Node: "b@h", TTL: 10 * time.Second, LockDelay: time.Millisecond,
				Data: v.Data, StateDir: v.State}
			socket, err := net.Listen("unix", cfg.StatusSocket())
			expect.Must(t, err)
			shows := &httptest.Server{Listener: socket, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				expect.Must(t, companion.Report{Out: true}.Print(w))
			})}}
			shows.Start()
			defer shows.Close()
			r := peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{"a@h": "va", "b@h": "vb", "c@h": "vc"}}
			_, err = peers.WriteRecord(t.Context(), c.Client, cfg.RecordKey(), r, 0, "", "")
			expect.Must(t, err)
			asked := 0
			run := func(_ context.Context, argv ...string) (string, error) {
				if !strings.Contains(argv[len(argv)-1], "persistent_cluster_id") {
					return "", nil
				}
				if asked++; asked == 2 { // the last thing before the write
					tt.fault(link, consultest.Request("GET", "/v1/kv/"+cfg.RecordKey()), func() {
						now, index, err := peers.ReadRecord(t.Context(), c.Client, cfg.RecordKey())
						expect.Must(t, err)
						_, err = peers.WriteRecord(t.Context(), c.Client, cfg.RecordKey(), now, index, "", "")
						expect.Must(t, err)
					})
				}
				return "view|id-1|a@h,b@h,c@h|a@h,b@h,c@h||false|\n", nil
			}
			o := operator{rt: statedir.Runtime{Config: cfg, Volume: "vb"}, broker: rabbitmq.CLI{Node: "b@h", Run: run}, out: io.Discard, patience: time.Second}
			client, err := consul.DialConsul(link.Addr)
			expect.Must(t, err)
			left, err := o.moveOut(t.Context(), client, r)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) || err == nil && !left.HasLeft("b@h", "vb") {
				t.Errorf("record %+v, %v", left, err)
			}
			if order, err := v.Maintenance(); err != nil || (order != nil) != tt.ordered {
				t.Errorf("the order is %+v, %v", order, err)
			}
		})
	}
}
