package peers_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/expect"
)

// What RabbitMQ was made to forget is told so, does not come back on any earlier volume, and joins on a blank one.
func TestForgottenByHand(t *testing.T) {
	t.Parallel()
	was := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{a: "va", b: "vb"}}
	r := was.ForgottenByHand(b, time.Now()).By(b, a)
	why := r.Refuses(b, "vb", "id")
	if len(r.Members) != 1 || len(was.Members) != 2 || r.Returns(b, "vb") || !r.Gone[b].Another(b) || !strings.Contains(why, "RabbitMQ was made to forget it, by hand") || !strings.Contains(why, "goes on with "+a) {
		t.Errorf("%+v: %q", r, why)
	}
	r = r.Joins(b, "vx", time.Now())
	if r.Members[b] != "vx" || !r.NeverVerified(b) || r.Refuses(b, "vx", "id") != "" || r.Refuses(b, "vb", "id") == "" {
		t.Errorf("%+v", r)
	}
}

// What an operator had forgotten left in good order, for the members to finish that, and is told by whom; no volume of it
// comes back, the one neither that a blank one removed before.
func TestForgottenByOrder(t *testing.T) {
	t.Parallel()
	was := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{a: "va", b: "vb"}}
	for name, r := range map[string]peers.Record{"a member": was, "removed by a blank volume": was.RemovedItself(b, "vx", time.Now())} {
		r = r.ForgottenByOrder(b, "told to", time.Now()).By(b, a+", rmq-entrypoint forget, on host h")
		why := r.Refuses(b, "vb", "id")
		if len(r.Members) != 1 || len(was.Members) != 2 || !r.HasLeft(b, "vb") || r.Returns(b, "vb") ||
			!strings.Contains(why, "was taken off cluster id on") || !strings.Contains(why, "by "+a+", rmq-entrypoint forget") || !strings.Contains(why, "goes on with "+a+", which do not know this volume") {
			t.Errorf("%s: %+v: %q", name, r, why)
		}
		if r = r.Joins(b, "vy", time.Now()); r.Joining[b] != "vy" || r.Refuses(b, "vb", "id") == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	r := was.Joins(b, "vx", time.Now()).ForgottenByOrder(b, "told to", time.Now())
	if r.Displaced(b, "vb") || r.Refuses(b, "vb", "id") == "" {
		t.Errorf("the volume that another joined in place of comes back: %+v", r)
	}
}

// What an order to forget changed is put back to the letter, whatever was written of others meanwhile.
func TestTakenBack(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)
	was := peers.Record{State: peers.Formed, ClusterID: "id", Revision: "before", Members: map[string]string{a: "va", b: "vb"}}
	wiped := was.RemovedItself(b, "vx", now)
	many := was
	many.Gone = map[string]peers.Gone{}
	for i := range 100 { // more is not kept
		many.Gone[fmt.Sprintf("rabbit@x%d", i)] = peers.Gone{Left: true, At: now.Add(time.Duration(i-200) * time.Hour)}
	}
	for name, was := range map[string]peers.Record{
		"a member": was, "and its version": was.Runs(b, "4.3.6"), "it joins first": was.Without(b, "", now).ForgottenByOrder(b, "", now).Joins(b, "vy", now),
		"removed by a blank volume": wiped, "another container joins": wiped.Joins(b, "vy", now), "many left": many,
	} {
		off := was.ForgottenByOrder(b, "told to", now)
		stored := off
		stored.Revision = "written"
		if len(off.Gone) > 100 {
			stored.Gone = maps.Clone(off.Gone)
			delete(stored.Gone, "rabbit@x0")
		}
		if got := stored.TakenBack(b, was, off); !reflect.DeepEqual(got, was) {
			t.Errorf("%s: %+v, want %+v", name, got, was)
		}
		text := func(r peers.Record) string {
			r.Revision = ""
			b, err := json.Marshal(r)
			expect.Must(t, err)
			return string(b)
		}
		for _, others := range []func(peers.Record) peers.Record{
			func(r peers.Record) peers.Record { return r.Runs(a, "4.3.7").Joins("rabbit@c", "vc", now) },
			func(r peers.Record) peers.Record { return r.Without(a, "", now) },
		} {
			var r peers.Record
			wrote := text(others(off))
			expect.Must(t, json.Unmarshal([]byte(wrote), &r))
			if is, should := text(r.TakenBack(b, was, off)), text(others(was)); is != should {
				t.Errorf("%s, and others wrote: %s, want %s", name, is, should)
			}
			if text(r) != wrote {
				t.Errorf("%s: what it was made from is %s, and was %s", name, text(r), wrote)
			}
		}
	}
	off := wiped.Joins(b, "vy", now).ForgottenByOrder(b, "told to", now)
	got := off.Without(a, "", now).Joins(a, "va2", now).TakenBack(b, wiped.Joins(b, "vy", now), off)
	if len(got.Replaced) != 2 || !got.Displaced(b, "vb") || got.Refuses(a, "va", "id") == "" || got.Members[a] != "va2" {
		t.Errorf("another's volume was replaced meanwhile: %+v", got)
	}
	full := was
	for range 8 { // more is not kept
		full.Replaced = append(full.Replaced, peers.Replaced{Node: b})
	}
	off = full.ForgottenByOrder(b, "told to", now)
	if got = off.Without(a, "", now).Joins(a, "va2", now).TakenBack(b, full, off); len(got.Replaced) != 8 {
		t.Errorf("%d volumes that were replaced", len(got.Replaced))
	}
}
