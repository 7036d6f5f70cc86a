package companion

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
	"strings"
	"testing"
	"time"
)

// The operator's order goes only while no command works on the node, unless RabbitMQ's own
// word is what ends it.
func TestEndMaintenance(t *testing.T) {
	for name, c := range map[string]struct {
		action policy.EndMaintenance
		busy   bool // a command works on the node
		revive error
		want   error
		gone   bool // the order
	}{
		"revived":                       {gone: true},
		"revived, and a command runs":   {busy: true, gone: true},
		"interrupted":                   {action: policy.EndMaintenance{Unwatched: true}, gone: true},
		"interrupted, and begun again":  {action: policy.EndMaintenance{Unwatched: true}, busy: true, want: policy.ErrCommandRuns},
		"a leave that was interrupted":  {action: policy.EndMaintenance{Unwatched: true, Revive: true}, gone: true},
		"RabbitMQ stays in maintenance": {action: policy.EndMaintenance{Unwatched: true, Revive: true}, revive: errors.New("busy"), want: &policy.NotRevivedError{}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testVolume(t)
			asked := 0
			c1 := companionFor(config.Config{Node: "a", Data: dir.Data, StateDir: dir.State}, statedir.Runtime{}, func(context.Context, ...string) (string, error) {
				asked++
				return "maintenance|false|\n", c.revive
			})
			expect.Must(t, dir.WriteMaintenance(statedir.Maintenance{At: time.Now()}))
			if c.busy {
				held, err := statedir.TryLock(dir.State, statedir.OperatorLock)
				expect.Must(t, err)
				defer held.Close()
			}
			_, err := c1.do(t.Context(), new(policy.Observation), c.action)
			if still := (*policy.NotRevivedError)(nil); !errors.Is(err, c.want) && !(errors.As(c.want, &still) && errors.As(err, &still)) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if order, err := dir.Maintenance(); err != nil || (order == nil) != c.gone {
				t.Errorf("the order is %+v, %v", order, err)
			}
			if (asked > 0) != c.action.Revive {
				t.Errorf("RabbitMQ was asked %d times", asked)
			}
		})
	}
}

// Only a join that is under way is marked as failed: what a node founded alone by accident
// stays known as such.
// Once RabbitMQ has stopped to join, the record is read anew: who is on it by then, and whether that
// can be told at all, decides.
func TestMayJoin(t *testing.T) {
	agent := consultest.Start(t)
	for name, tc := range map[string]struct {
		record peers.Record
		away   bool
		says   string // "": it may
	}{
		"on record with this volume": {record: peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"a@h": "va", "b@h": "vb"}}},
		"on record without a volume": {record: peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"a@h": "", "b@h": "vb"}}},
		"another volume":             {record: peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"a@h": "other", "b@h": "vb"}}, says: `names volume "other" for this node by now, whose volume is va`},
		"another founding":           {record: peers.Record{State: peers.Forming, Seed: "b@h", Claim: "c", Members: map[string]string{"b@h": "vb"}}, says: "is forming"},
		"no Consul":                  {away: true, says: "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config.Config{Node: "a@h", TTL: 15 * time.Second, Consul: []string{agent.Addr}, KeyPrefix: "may-join", Service: strings.ReplaceAll(name, " ", "-")}
			if tc.away {
				cfg.Consul = []string{"127.0.0.1:1"}
			} else {
				_, err := peers.WriteRecord(t.Context(), agent.Client, cfg.RecordKey(), tc.record, 0, "", "")
				expect.Must(t, err)
			}
			c := companionFor(cfg, statedir.Runtime{Volume: "va"}, nil)
			switch err := c.mayJoin(t.Context()); {
			case err == nil && tc.says != "":
				t.Errorf("it may, want %q", tc.says)
			case err != nil && (tc.says == "" || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
}

func TestFailJoin(t *testing.T) {
	for _, p := range []statedir.Pending{
		{Role: statedir.Joining, Claim: "c1", Volume: "vb"}, {Role: statedir.Alone, Claim: "c1", Volume: "vb"}, {Role: statedir.Seeding, Claim: "c1", Volume: "vb"},
	} {
		dir := testVolume(t)
		expect.Must(t, dir.WritePending(p))
		c := companionFor(config.Config{Node: "b", Data: dir.Data, StateDir: dir.State}, statedir.Runtime{}, nil)
		_, err := c.do(t.Context(), new(policy.Observation), policy.FailJoin{})
		expect.Must(t, err)
		p.Failed = p.Role == statedir.Joining
		if got, err := dir.Pending(); err != nil || *got != p {
			t.Errorf("pending: %+v, %v, want %+v", got, err, p)
		}
	}
}

// Every question fills what it asks for, whether it is answered or not, and every action is
// known.
func TestQuestionsAndActions(t *testing.T) {
	dir := testVolume(t)
	cfg := config.Config{Node: "a", Data: dir.Data, StateDir: dir.State, Consul: []string{"127.0.0.1:1"}, TTL: 15 * time.Second}
	c := companionFor(cfg, statedir.Runtime{}, func(context.Context, ...string) (string, error) { return "", errors.New("no answer") })
	for q, asked := range map[policy.What]func(policy.Observation) bool{
		policy.AskRecord:  func(o policy.Observation) bool { return o.Record.Asked && o.Record.Err != nil },
		policy.AskCatalog: func(o policy.Observation) bool { return o.Catalog.Asked && o.Catalog.Err != nil },
		policy.AskManaged: func(o policy.Observation) bool { return o.Managed.Asked && o.Managed.Err != nil },
		policy.AskView:    func(o policy.Observation) bool { return o.Nodes["b"].View.Asked && o.Nodes["b"].View.Err != nil },
		policy.AskLeader:  func(o policy.Observation) bool { return o.Nodes["b"].Leader.Asked && o.Nodes["b"].Leader.Err != nil },
		policy.AskDown: func(o policy.Observation) bool {
			down, asked := o.Nodes["b"].Down["10.0.0.1:5672"]
			return asked && !down
		},
		policy.AskWaits:  func(o policy.Observation) bool { return o.Waits.Asked && o.Waits.Err != nil },
		policy.AskQueues: func(o policy.Observation) bool { return o.Queues.Asked && o.Queues.Err != nil },
	} {
		seen := c.glance()
		if c.ask(t.Context(), &seen, policy.Question{What: q, Node: "b", Address: "10.0.0.1:5672", Within: time.Second}); !asked(seen) {
			t.Errorf("asked for %s: %+v", q, seen)
		}
	}
	for _, a := range []policy.Action{
		policy.WriteRecord{}, policy.SetMirrors{}, policy.Enroll{}, policy.WritePending{}, policy.StopServer{}, policy.EndStop{}, policy.FailJoin{}, policy.ForgetMember{},
		policy.JoinPeer{}, policy.RestartApp{}, policy.ForceBoot{}, policy.Settle{}, policy.WriteCarryOn{}, policy.DropCarryOn{}, policy.EndMaintenance{},
		policy.LeaveAgents{}, policy.GrowReplicas{}, policy.WriteMarker{}, policy.SetPauseMinority{},
	} {
		if _, err := c.do(t.Context(), new(policy.Observation), a); err != nil && strings.Contains(err.Error(), "nobody knows") {
			t.Error(err)
		}
	}
	if _, err := c.do(t.Context(), new(policy.Observation), policy.RestartApp{}); err == nil || errors.Is(err, policy.ErrNoAnswer) {
		t.Errorf("RabbitMQ refused: %v", err)
	}
	c.Broker.Run = func(context.Context, ...string) (string, error) { return "", context.DeadlineExceeded }
	if _, err := c.do(t.Context(), new(policy.Observation), policy.RestartApp{}); !errors.Is(err, policy.ErrNoAnswer) {
		t.Errorf("it may have been heard: %v", err)
	}
}

// What lies on the volume is read whole.
func TestVolumeIsRead(t *testing.T) {
	dir := testVolume(t)
	c := companionFor(config.Config{Node: "a", Data: dir.Data, StateDir: dir.State}, statedir.Runtime{}, nil)
	if v := c.volume(); v.Maintenance.Value != nil || v.CarryOn.Value != nil || v.Marker.Value != nil || v.CommandRuns || v.Database.Value || v.KhepriFlag {
		t.Errorf("of a blank volume: %+v", v)
	}
	now := time.Now().UTC().Round(0)
	expect.Must(t, dir.WriteMaintenance(statedir.Maintenance{Leaving: true, Drained: true, Done: true, At: now}))
	expect.Must(t, dir.WriteCarryOn(statedir.CarryOn{ClusterID: "id", Lost: []string{"b"}, Forced: true}))
	expect.Must(t, dir.WriteMarker(statedir.Marker{ClusterID: "id", Volume: "v", Members: []string{"a"}, At: now, Regrow: true}))
	expect.Must(t, os.MkdirAll(dir.Data, 0o755))
	expect.Must(t, os.WriteFile(filepath.Join(dir.Data, "schema.DAT"), nil, 0o644))
	expect.Must(t, os.WriteFile(dir.Data+"-feature_flags", []byte("[khepri_db]."), 0o644))
	held, err := statedir.TryLock(dir.State, statedir.OperatorLock)
	expect.Must(t, err)
	defer held.Close()
	want := policy.Volume{CommandRuns: true, KhepriFlag: true}
	want.Maintenance.Value = &policy.Maintenance{Leaving: true, Drained: true, Done: true, At: now}
	want.CarryOn.Value = &policy.CarryOn{ClusterID: "id", Lost: []string{"b"}, Forced: true}
	want.Marker.Value = &policy.Marker{ClusterID: "id", Volume: "v", Members: []string{"a"}, At: now, Regrow: true}
	want.Database.Value = true
	if v := c.volume(); !reflect.DeepEqual(v, want) {
		t.Errorf("%+v, want %+v", v, want)
	}
	for _, name := range []string{"out", "carry-on", "member"} {
		expect.Must(t, os.WriteFile(filepath.Join(dir.State, name), []byte("{"), 0o644))
	}
	if v := c.volume(); v.Maintenance.Err == nil || v.CarryOn.Err == nil || v.Marker.Err == nil {
		t.Errorf("of damaged files: %+v", v)
	}
}
