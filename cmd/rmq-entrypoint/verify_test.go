package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/healthcheck"
	"rmq-entrypoint/peers"
)

// A member that died goes on passing until its check lapses: that is no partition. One that passes for longer, and is
// not seen running, is apart.
func TestApartFromOneThatPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &companion{rt: runtimeFile{Config: config{Node: "a", TTL: 15 * time.Second}}}
		r := peers.Record{State: peers.Formed, ClusterID: "id", Members: map[string]string{"a": "va", "b": "vb"}}
		b := peers.Peer{Node: "b", ClusterID: "id", Passing: true, Beating: true}
		look := func(running ...string) string {
			c.view, c.viewAt = peers.View{ClusterID: "id", Members: []string{"a", "b"}, Running: running}, time.Now()
			return c.apart(r, []peers.Peer{b})
		}
		for range 4 { // 15 s: the TTL
			if why := look("a"); why != "" {
				t.Fatalf("after %s: %s", time.Since(c.apartFrom["b"]), why)
			}
			time.Sleep(5 * time.Second)
		}
		time.Sleep(time.Second)
		if why := look("a"); !strings.Contains(why, "b serve") {
			t.Errorf("apart for longer than a dead one passes: %q", why)
		}
		if why := look("a", "b"); why != "" {
			t.Errorf("whole again: %q", why)
		}
		if why := look("a"); why != "" {
			t.Errorf("the next time counts from its own beginning: %q", why)
		}
		time.Sleep(time.Minute)
		b.Passing = false
		if why := look("a"); why != "" {
			t.Errorf("one that does not pass is down: %q", why)
		}
		b.Passing = true
		r.Members = map[string]string{"a": "va", "b": "vb", "c": "vc"}
		look("a", "c")
		time.Sleep(time.Minute)
		if why := look("a", "c"); why != "" {
			t.Errorf("with a majority: %q", why)
		}
	})
}

// What cannot be looked at is what it was: neither well because nobody looked, nor ill.
func TestUnknownStaysWhatItWas(t *testing.T) {
	err := errors.New("no leader")
	for _, tc := range []struct {
		verified bool
		wrong    string
		check    healthcheck.State
		status   string
		says     []string
	}{
		{false, "", healthcheck.Passing, api.HealthCritical, []string{"not verified", "no leader"}},
		{true, "", healthcheck.Passing, api.HealthPassing, []string{"answers", "no leader"}},
		{true, "", healthcheck.Warning, api.HealthWarning, []string{"answers", "no leader"}},
		{true, "SPLIT", healthcheck.Passing, api.HealthCritical, []string{"SPLIT", "no leader"}},
	} {
		c := &companion{verified: tc.verified, wrong: tc.wrong}
		status, reason := c.unknown(healthcheck.Result{State: tc.check, Reason: "answers"}, err)
		if status != tc.status || slices.ContainsFunc(tc.says, func(w string) bool { return !strings.Contains(reason, w) }) {
			t.Errorf("%+v: %s, %q", tc, status, reason)
		}
	}
}
