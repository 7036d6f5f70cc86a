package admin

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// Those that stay are to be a majority, and on Khepri those that run one of all, for forgetting is a decision, too.
func TestMayForget(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, members, runs, record string
		khepri                      bool
		want                        string
	}{
		{"one of three", "a,b,c", "a,b", "a,b,c", true, ""},
		{"one of three, with Mnesia", "a,b,c", "a,b", "a,b,c", false, ""},
		{"one of two, with Mnesia", "a,c", "a", "a,c", false, ""},
		{"one of two, with Khepri", "a,c", "a", "a,c", true, "of the members a, c only a run"},
		{"two of four are down", "a,b,c,d", "a,b", "a,b,c,d", true, "of the members a, b, c, d only a, b run"},
		{"two of four are down, with Mnesia", "a,b,c,d", "a,b", "a,b,c,d", false, ""},
		{"half of those that stay", "a,b,c", "a", "a,b,c", false, "of the nodes that stay (a, b) only a run"},
		{"one that runs is not on record", "a,b,c", "a,b", "a,c", false, "only a run and are on record"},
	} {
		r := peers.Record{State: peers.Formed, Members: map[string]string{}}
		for _, n := range names(c.record) {
			r.Members[n] = "v"
		}
		err := mayForget(r, peers.View{Members: names(c.members), Running: names(c.runs), Khepri: c.khepri}, "c")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// What would be lost is named by what it is, and given up when forced; what cannot be told is not.
func TestNothingLost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, said string
		force      bool
		err, out   string
	}{
		{name: "nothing", said: ""},
		{name: "classic", said: "queue|queue 'q|x' in vhost '/'|only_there|\n", err: "on it alone: queue 'q|x' in vhost '/'. Start it"},
		{name: "quorum", said: "queue|queue 's'|runs on a, of a, b, c|\n", err: "too few replicas run: queue 's' (runs on a, of a, b, c)"},
		{name: "forced", said: "queue|q|only_there|\nqueue|s|runs on no node, of c|\n", force: true, out: "given up with c@h: these classic queues are on it alone: q; of these queues too few replicas run: s (runs on no node, of c)"},
		{name: "no answer", said: "-", force: true, err: "cannot be told: no answer"},
	} {
		var out strings.Builder
		o := operator{force: c.force, out: &out, broker: rabbitmq.CLI{Node: "a@h", Run: func(context.Context, ...string) (string, error) {
			if c.said == "-" {
				return "", errors.New("no answer")
			}
			return c.said, nil
		}}}
		err := o.nothingLost(t.Context(), "c@h")
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || !strings.Contains(out.String(), c.out) || c.out == "" && out.Len() > 0 {
			t.Errorf("%s: %v, %s", c.name, err, out.String())
		}
	}
}

// fallsSilent starts an epmd that lists nobody, and says nothing once silent is set.
func fallsSilent(t *testing.T) (silent *atomic.Bool) {
	t.Helper()
	l, shut := expect.Listen0(t), expect.Listen0(t)
	_, dist, _ := net.SplitHostPort(shut.Addr().String())
	expect.Must(t, shut.Close())
	_, port, _ := net.SplitHostPort(l.Addr().String())
	t.Setenv("ERL_EPMD_PORT", port)
	t.Setenv("RABBITMQ_DIST_PORT", dist)
	silent = new(atomic.Bool)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if !silent.Load() {
				_, _ = conn.Write([]byte{119, 1})
				_, _ = io.Copy(io.Discard, conn)
			}
			_ = conn.Close()
		}
	}()
	return silent
}

// What was seen before the node is taken off the record may not hold any more: then all that was said of it is put back, and
// RabbitMQ is told nothing.
func TestForgetLooksAgain(t *testing.T) {
	const a, b, c, d = "a@localhost", "b@localhost", "c@127.0.0.1", "d@localhost"
	const started = c + " has started meanwhile (%s): the record says of " + c + " what it said before"
	consul := consultest.Start(t)
	silent := fallsSilent(t)
	view := func(running, connected string, others ...string) string {
		return fmt.Sprintf("view|id-1|%s,%s,%s,%s|%s||false|%s\n", a, b, c, d, running, connected) + strings.Join(others, "")
	}
	down := map[string]string{a: view(a+","+b, ""), b: view(a+","+b, "")}
	formed := peers.Record{State: peers.Formed, ClusterID: "id-1", Members: map[string]string{a: "va", b: "vb", c: "vc", d: "vd"}, Versions: map[string]string{c: "4.3.6"}}
	gone := formed.RemovedItself(c, "vx", time.Now())
	for _, tt := range []struct {
		name     string
		record   peers.Record
		force    bool
		later    map[string]string                   // what each says when the node is off the record; "": no answer
		does     func(now peers.Record) peers.Record // somebody, at that time
		silent   bool                                // epmd, at that time
		faster   int                                 // somebody was with so many writes, from then on
		unlisted bool                                // RabbitMQ has forgotten it already
		err      string
		told     int
	}{
		{name: "it stays down", record: formed, later: down, told: 1},
		{name: "a member sees it run", record: formed, later: map[string]string{a: view(a+","+b+","+c, ""), b: down[b]}, err: fmt.Sprintf(started, "RabbitMQ on a@localhost lists it as running")},
		{name: "this node sees it run", record: formed, later: map[string]string{a: down[a], b: view(a+","+b+","+c, "")}, err: fmt.Sprintf(started, "RabbitMQ on b@localhost lists it as running")},
		{name: "one that has started sees it", record: formed, later: map[string]string{a: down[a], b: view(a+","+b+","+d, ""), d: view(a+","+b+","+d, c)}, err: fmt.Sprintf(started, "d@localhost is connected with it")},
		{name: "another one stops and starts", record: formed, later: map[string]string{b: view(b+","+d, ""), d: view(b+","+d, "")}, told: 1},
		{name: "it cannot be told any more", record: formed, later: down, silent: true, err: "whether " + c + " is still down cannot be told any more: epmd at"},
		{name: "it cannot be told any more, and that is forced", record: formed, later: down, silent: true, force: true, told: 1},
		{name: "RabbitMQ here says nothing", record: formed, later: map[string]string{a: down[a]}, force: true, err: "RabbitMQ is stopped here, or does not answer"},
		{name: "a partition", record: formed, later: map[string]string{a: down[a], b: fmt.Sprintf("view|id-1|%s,%s,%s,%s|%s,%s|%s|false|\n", a, b, c, d, a, b, d)}, force: true, err: "partitioned from d@localhost"},
		{name: "the majority is gone", record: formed, later: map[string]string{a: down[a], b: view(b, "")}, force: true, err: "without a majority"},
		{name: "it joins, and another container is on record", record: formed.Joins(c, "vnew", time.Now()), later: down, silent: true, err: "the record says of " + c + " what it said before"},
		{name: "it is gone and may return", record: gone, later: down, silent: true, err: "the record says of " + c + " what it said before"},
		{name: "somebody wrote meanwhile", record: gone, later: down, silent: true, err: "the record says of " + c + " what it said before",
			does: func(now peers.Record) peers.Record { return now.Runs(a, "4.3.7") }},
		{name: "a companion is faster", record: gone, later: down, silent: true, faster: 2, err: "the record says of " + c + " what it said before"},
		{name: "others are faster", record: gone, later: down, silent: true, faster: 9, err: c + " stays off the record: the record changed meanwhile"},
		{name: "RabbitMQ forgot it already", record: formed, later: down, unlisted: true},
		{name: "RabbitMQ forgot it already, and a blank one joins", record: formed, later: down, unlisted: true, err: c + " joins anew, with volume vnew: it is left alone",
			does: func(now peers.Record) peers.Record { return now.Joins(c, "vnew", time.Now()) }},
		{name: "a blank one joins", record: formed, later: down, err: c + " joins anew, with volume vnew: it is left alone",
			does: func(now peers.Record) peers.Record { return now.Joins(c, "vnew", time.Now()) }},
		{name: "a blank one joins, and it cannot be told", record: formed, later: down, silent: true, err: "cannot be told any more: *; and " + c + " joins anew",
			does: func(now peers.Record) peers.Record { return now.Joins(c, "vnew", time.Now()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			silent.Store(false)
			link := consultest.Proxy(t, consul.Addr)
			cfg := config.Config{Consul: []string{link.Addr}, Service: "s", KeyPrefix: rand.Text(), Node: b, TTL: 10 * time.Second, LockDelay: time.Millisecond, StateDir: t.TempDir()}
			read := func() (peers.Record, uint64) {
				r, index, err := peers.ReadRecord(t.Context(), consul.Client, cfg.RecordKey())
				expect.Must(t, err)
				return r, index
			}
			write := func(r peers.Record, index uint64) {
				_, err := peers.WriteRecord(t.Context(), consul.Client, cfg.RecordKey(), r, index, "", "")
				expect.Must(t, err)
			}
			write(tt.record, 0)
			was, _ := read()
			told, off := 0, false
			run := func(_ context.Context, argv ...string) (string, error) {
				if argv[4] == "forget_cluster_node" {
					if told++; tt.later[argv[3]] == "" {
						t.Errorf("%s is asked, which is down", argv[3])
					}
					return "", nil
				} else if !strings.Contains(argv[len(argv)-1], "persistent_cluster_id") {
					return "", nil
				}
				now, index := read()
				if now.HasLeft(c, "vc") || now.HasLeft(c, "vnew") {
					silent.Store(tt.silent)
					if tt.does != nil && !off {
						write(tt.does(now), index)
					}
					if !off && tt.faster > 0 {
						link.Answer(tt.faster, http.StatusConflict, `{"Errors": [{"OpIndex": 1, "What": "index is stale"}]}`, consultest.Request("PUT", "/v1/txn"))
					}
					off = true
				}
				says := down[argv[3]]
				if off {
					says = tt.later[argv[3]]
				}
				if says == "" {
					return "", errors.New("no answer")
				}
				if tt.unlisted {
					says = strings.Replace(says, c+",", "", 1)
				}
				return says, nil
			}
			o := operator{rt: statedir.Runtime{Config: cfg, Volume: "vb"}, broker: rabbitmq.CLI{Node: b, Run: run}, out: io.Discard, force: tt.force, patience: time.Second}
			err := underLock(t.Context(), cfg, "id-1", func(client *api.Client, session string, r peers.Record, index uint64) error {
				return o.forget(t.Context(), change{client, session, r, index}, c)
			})
			before, after, _ := strings.Cut(tt.err, "*")
			if (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), before) || !strings.Contains(err.Error(), after)) || told != tt.told || !off {
				t.Errorf("%v, told %d times, off the record %t", err, told, off)
			}
			now, _ := read()
			want := was
			switch {
			case strings.Contains(tt.err, "joins anew"):
				if now.Members[c] != "vnew" || strings.Contains(err.Error(), "run forget again") {
					t.Errorf("record %+v, %v", now, err)
				}
				return
			case tt.err == "", tt.faster > 3:
				if !now.HasLeft(c, "vc") {
					t.Errorf("record %+v", now)
				}
				return
			case tt.does != nil:
				want = tt.does(was)
			}
			want.Revision, now.Revision = "", ""
			is, err := json.Marshal(now)
			expect.Must(t, err)
			should, err := json.Marshal(want)
			if expect.Must(t, err); !bytes.Equal(is, should) {
				t.Errorf("record %s\nwant   %s", is, should)
			}
		})
	}
}

// A blank node joins between two tries: the second one is not made.
func TestForgetBetweenTries(t *testing.T) {
	t.Parallel()
	unreadable, other := errors.New("no answer of Consul's"), fmt.Errorf("joins anew: %w", errLeftAlone)
	for _, c := range []struct {
		name string
		may  []error // before each try
		told int
		want error
	}{
		{"it joins between two tries", []error{nil, other}, 1, other},
		{"it joins before", []error{other}, 0, other},
		{"the record cannot be read", []error{unreadable, unreadable, unreadable}, 0, unreadable},
		{"the record can be read again", []error{unreadable, nil, other}, 1, other},
	} {
		asked, told := 0, 0
		o := operator{broker: rabbitmq.CLI{Node: "b@h", Run: func(_ context.Context, argv ...string) (string, error) {
			if argv[4] == "forget_cluster_node" {
				told++
			}
			return "", errors.New("no answer")
		}}, patience: 3 * time.Second}
		err := o.haveForgotten(t.Context(), names("a@h,b@h"), "c@h", func(context.Context) error {
			asked++
			return c.may[min(asked, len(c.may))-1]
		})
		if !errors.Is(err, c.want) || told != c.told {
			t.Errorf("%s: %v, told %d times", c.name, err, told)
		}
	}
}
