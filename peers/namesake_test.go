package peers_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/tests/consultest"
)

// boot is what one start of rabbit@b registers.
func boot(volume, id string) peers.Registration {
	r := registration(b, "10.0.0.2")
	r.Volume, r.Boot, r.Since = volume, id, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return r
}

func serves() peers.Standing { return peers.Serving }

// Who may take the name from whom.
func TestNameIsTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		there    peers.Registration
		status   string
		comes    peers.Registration
		standing peers.Standing
		taken    bool
	}{
		{"a blank one from one that serves", boot("v1", "b1"), api.HealthPassing, boot("v2", "b2"), peers.Blank, true},
		{"a blank one without a volume", boot("v1", "b1"), api.HealthCritical, boot("", "b2"), peers.Blank, true},
		{"two without a volume", boot("", "b1"), api.HealthCritical, boot("", "b2"), peers.Blank, true},
		{"a blank one from its own earlier start", boot("v1", "b1"), api.HealthCritical, boot("v1", "b2"), peers.Blank, false},
		{"a blank one from a copy of its volume that serves", boot("v1", "b1"), api.HealthPassing, boot("v1", "b2"), peers.Blank, true},
		{"one with data from its own earlier start", boot("v1", "b1"), api.HealthPassing, boot("v1", "b2"), peers.Starting, false},
		{"one with data from another volume", boot("v1", "b1"), api.HealthCritical, boot("v2", "b2"), peers.Starting, true},
		{"one with data from an entry that says no volume", boot("", ""), api.HealthPassing, boot("v2", "b2"), peers.Starting, false},
		{"a blank one from an entry that says no volume", boot("", ""), api.HealthPassing, boot("v2", "b2"), peers.Blank, true},
		{"one that serves from one that does not", boot("v1", "b1"), api.HealthCritical, boot("v2", "b2"), peers.Serving, false},
		{"one that serves from its own earlier start", boot("v1", "b1"), api.HealthPassing, boot("v1", "b2"), peers.Serving, false},
		{"one that serves from one that serves", boot("v1", "b1"), api.HealthPassing, boot("v2", "b2"), peers.Serving, true},
		{"one on record from one that serves", boot("v1", "b1"), api.HealthPassing, boot("v2", "b2"), peers.Recorded, false},
		{"the same start again", boot("v1", "b1"), api.HealthPassing, boot("v1", "b1"), peers.Blank, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			consul := consultest.Start(t)
			client := consul.Client
			mustAnnounce(t, client, c.there)
			mustReport(t, client, c.there, c.status)
			err := peers.Announce(t.Context(), client, c.comes, c.standing, "")
			taken := new(peers.NameTakenError)
			switch {
			case c.taken && (!errors.As(err, &taken) || taken.Peer.Volume != c.there.Volume || taken.Peer.Boot != c.there.Boot):
				t.Fatalf("it got %v", err)
			case !c.taken && err != nil:
				t.Fatal(err)
			}
			// Whoever has the name beats for it, and for nobody else.
			has, not := c.comes, c.there
			if c.taken {
				has, not = c.there, c.comes
			}
			mustReport(t, client, has, api.HealthPassing)
			if has.Boot != not.Boot {
				if err := peers.Report(t.Context(), client, not, api.HealthCritical, ""); !errors.Is(err, peers.ErrUnregistered) {
					t.Errorf("the other one beats: %v", err)
				}
				// Nor does it remove what is not its own.
				if err := peers.Withdraw(t.Context(), client, not); err != nil {
					t.Error(err)
				}
			}
			checks, err := client.Agent().Checks()
			if err != nil || len(checks) != 1 {
				t.Errorf("checks %v, %v", checks, err)
			}
		})
	}
}

// An entry of another volume stays until its check has lapsed, and the agent says so at
// once, also of one that was critical before.
func TestNameLapses(t *testing.T) {
	t.Parallel()
	for _, status := range []string{api.HealthPassing, api.HealthCritical} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			client := consultest.Start(t).Client
			old, now := boot("v1", "b1"), boot("v2", "b2")
			old.TTL = 4 * time.Second
			mustAnnounce(t, client, old)
			mustReport(t, client, old, status)
			if boot, err := peers.Bury(t.Context(), client, now, peers.Blank); err != nil || boot != "" {
				t.Fatal(boot, err)
			}
			eventually(t, "it is found", func() bool {
				all, _, err := peers.Entries(t.Context(), client, service)
				found, serr := peers.Namesakes(t.Context(), client, now, all)
				return err == nil && serr == nil && len(found) == 1 && found[0].Volume == "v1" && !found[0].Lapsed() && found[0].Since.Equal(old.Since)
			})
			eventually(t, "it lapses", func() bool {
				found, err := peers.Namesakes(t.Context(), client, now, nil)
				return err == nil && len(found) == 1 && found[0].Lapsed()
			})
			if boot, err := peers.Bury(t.Context(), client, now, peers.Blank); err != nil || boot != "b1" {
				t.Fatal(boot, err)
			}
			if services, err := client.Agent().Services(); err != nil || len(services) != 0 {
				t.Errorf("left: %v, %v", services, err)
			}
			if err := peers.Announce(t.Context(), client, now, peers.Blank, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

// The catalog hears only minutes later that a check which was critical has lapsed. The agent
// is asked.
func TestEntriesLapse(t *testing.T) {
	t.Parallel()
	client := consultest.Start(t).Client
	r := boot("v1", "b1")
	r.TTL = 4 * time.Second
	mustAnnounce(t, client, r)
	mustReport(t, client, r, api.HealthCritical)
	var beating []bool
	eventually(t, "it lapses", func() bool {
		all, _, err := peers.Entries(t.Context(), client, service)
		if err == nil && len(all) == 1 {
			beating = append(beating, all[0].Beating)
		}
		return err == nil && len(all) == 1 && all[0].Lapsed() && !all[0].Passing
	})
	if len(beating) == 0 || !beating[0] {
		t.Errorf("it was beating: %v", beating)
	}
	entries, _, err := client.Health().Service(service, "", false, nil)
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	for _, c := range entries[0].Checks {
		if strings.Contains(c.Output, "TTL expired") {
			t.Error("the catalog knows by itself: this proves nothing")
		}
	}
}

// Enter touches no other start's check.
func TestEnterOverAnotherStart(t *testing.T) {
	t.Parallel()
	client := consultest.Start(t).Client
	mustAnnounce(t, client, boot("v1", "b1"))
	now := boot("v1", "b2")
	if err := peers.Enter(t.Context(), client, now, serves, ""); err != nil {
		t.Fatal(err)
	}
	mustReport(t, client, now, api.HealthPassing)
	if checks, err := client.Agent().Checks(); err != nil || len(checks) != 1 {
		t.Errorf("checks %v, %v", checks, err)
	}
}

// A node that beats critical for longer than Consul waits stays, if it registers over
// itself in between, and nothing is missing meanwhile.
func TestCriticalEntryStays(t *testing.T) {
	if testing.Short() {
		t.Skip("takes two minutes: Consul removes no entry sooner")
	}
	t.Parallel()
	client := consultest.Start(t).Client
	stays, goes := boot("v1", "b1"), registration(c, "10.0.0.3")
	stays.DeregisterAfter, goes.DeregisterAfter, stays.TTL, goes.TTL = time.Minute, time.Minute, 30*time.Second, 30*time.Second
	mustAnnounce(t, client, stays)
	mustAnnounce(t, client, goes)
	last := time.Now()
	for began := time.Now(); time.Since(began) < 115*time.Second; time.Sleep(200 * time.Millisecond) {
		all, _, err := peers.Entries(t.Context(), client, service)
		if err != nil || !slices.ContainsFunc(all, func(p peers.Peer) bool { return p.Boot == "b1" && !p.Passing }) && time.Since(began) > time.Second {
			t.Fatalf("after %s: %+v, %v", time.Since(began), all, err)
		}
		if time.Since(last) > 10*time.Second {
			mustReport(t, client, stays, api.HealthCritical)
			_ = peers.Report(t.Context(), client, goes, api.HealthCritical, "")
			if time.Since(began)%(30*time.Second) < 11*time.Second {
				if err := peers.Enter(t.Context(), client, stays, serves, "again"); err != nil {
					t.Fatal(err)
				}
			}
			last = time.Now()
		}
	}
	if all, _, err := peers.Entries(t.Context(), client, service); err != nil || len(all) != 1 {
		t.Errorf("the other one was not removed, and this proves nothing: %+v, %v", all, err)
	}
}
