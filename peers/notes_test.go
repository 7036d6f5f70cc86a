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
	"rmq-entrypoint/tests/expect"
)

const notes = "p/s/notes/"

func mustPost(t *testing.T, client *api.Client, n peers.Note) *peers.Posted {
	t.Helper()
	p, err := peers.Post(t.Context(), client, notes, n, 10*time.Second)
	expect.Must(t, err)
	return p
}

func mustNotes(t *testing.T, client *api.Client) []peers.Note {
	t.Helper()
	all, err := peers.Notes(t.Context(), client, notes)
	expect.Must(t, err)
	return all
}

func TestNotes(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	client := consul.Client
	if all := mustNotes(t, client); len(all) != 0 {
		t.Fatalf("before anything is written: %v", all)
	}
	waits := peers.Note{Node: a, Volume: "vol-a", Boot: "boot-1", State: peers.NoteWaits, Why: "the cluster\x1b[2J", Since: now}
	first := mustPost(t, client, waits)
	namesake := mustPost(t, client, peers.Note{Node: a, Boot: "boot-2", State: peers.NoteWaits, Why: "it has no volume yet", Since: now.Add(time.Second)})
	mustPost(t, client, peers.Note{Node: b, Volume: "vol-b", Boot: "boot-3", State: peers.NoteRefused, Kind: "the node left", Again: 3, Why: strings.Repeat("x", 5000), Since: now})
	all := mustNotes(t, client)
	if len(all) != 3 || all[0].Boot != "boot-2" || all[1].Boot != "boot-1" || all[2].Node != b {
		t.Fatalf("by node, the newest first: %+v", all)
	}
	if all[1].Why != `the cluster\x1b[2J` || !all[1].Since.Equal(now) || all[2].Kind != "the node left" || all[2].Again != 3 || len(all[2].Why) > 1010 {
		t.Errorf("read back %+v", all)
	}

	waits.Why = "its lock"
	expect.Must(t, first.Say(t.Context(), waits))
	expect.Must(t, first.Renew(t.Context()))
	if all := mustNotes(t, client); len(all) != 3 || all[1].Why != "its lock" {
		t.Errorf("said anew: %+v", all)
	}
	// The next start on that volume speaks for it, and a namesake on another one for itself.
	waits.Boot, waits.State = "boot-4", peers.NoteRefused
	mustPost(t, client, waits)
	if err := first.Renew(t.Context()); err == nil {
		t.Error("the earlier start's note lives on")
	}
	if all := mustNotes(t, client); len(all) != 3 || all[0].Boot != "boot-2" || all[1].Boot != "boot-4" {
		t.Errorf("after another start: %+v", all)
	}
	// Where no start has a volume yet, the next one on a host speaks for one there that has ended, and
	// not for one that waits, nor for one on another host.
	blank := func(boot, host string, state peers.NoteState) peers.Note {
		return peers.Note{Node: "rabbit@blank", Boot: boot, Host: host, State: state, Since: now}
	}
	for _, n := range []peers.Note{blank("w", "h1", peers.NoteWaits), blank("r", "h1", peers.NoteRefused), blank("f", "h2", peers.NoteFailed), blank("n", "", peers.NoteFailed), blank("own", "h1", peers.NoteWaits), blank("none", "", peers.NoteWaits)} {
		mustPost(t, client, n)
	}
	var boots []string
	for _, n := range mustNotes(t, client) {
		if n.Node == "rabbit@blank" {
			boots = append(boots, n.Boot)
		}
	}
	if slices.Sort(boots); strings.Join(boots, " ") != "f n none own w" {
		t.Errorf("of blank starts speak %v", boots)
	}
	for _, n := range boots {
		endNote(t, client, notes+"rabbit@blank/"+n)
	}
	expect.Must(t, namesake.Remove(t.Context()))
	if all := mustNotes(t, client); len(all) != 2 {
		t.Errorf("after one was taken back: %+v", all)
	}
	// What is not renewed goes by itself: after its life, and up to as long again.
	expect.Eventually(t, expect.Soon, "all notes end", func() error {
		if pairs, _, err := client.KV().List(notes, nil); err != nil || len(pairs) > 0 {
			return errors.Join(err, errors.New("some are there"))
		}
		return nil
	})
}

// endNote ends the session of a note.
func endNote(t *testing.T, client *api.Client, key string) {
	t.Helper()
	p, _, err := client.KV().Get(key, nil)
	expect.Must(t, err)
	_, err = client.Session().Destroy(p.Session, nil)
	expect.Must(t, err)
}

// Whoever may write below the prefix writes no note that a reader would take for a node's, and gets
// nobody to end another session.
func TestNotesOfStrangers(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t)
	client := consul.Client
	lock, _, err := client.Session().Create(&api.SessionEntry{Name: "p/s/lock"}, nil)
	expect.Must(t, err)
	put := func(key, value, session string) {
		t.Helper()
		ok, _, err := client.KV().Acquire(&api.KVPair{Key: notes + key, Value: []byte(value), Session: session}, nil)
		if err != nil || !ok {
			t.Fatalf("%s: %v, %v", key, ok, err)
		}
	}
	good := `{"node":"` + a + `","boot":"x","volume":"vol-a","state":"waits"}`
	put("elsewhere/x", good, lock)
	put(a+"/y", good, lock)
	put(a+"/not-json", "{", lock)
	put("@/x", `{"node":"@","boot":"x","state":"waits"}`, lock)
	put(a+"/z", `{"node":"`+a+`","boot":"z","state":"serves"}`, lock)
	put(a+"/big", `{"node":"`+a+`","boot":"big","state":"waits","why":"`+strings.Repeat("x", 5000)+`"}`, lock)
	_, err = client.KV().Put(&api.KVPair{Key: notes + b + "/left", Value: []byte(`{"node":"` + b + `","boot":"left","state":"waits"}`)}, nil)
	expect.Must(t, err)
	if all := mustNotes(t, client); len(all) != 0 {
		t.Errorf("these are no notes: %+v", all)
	}
	put(a+"/x", good, lock)
	mustPost(t, client, peers.Note{Node: a, Volume: "vol-a", Boot: "own", State: peers.NoteWaits})
	if s, _, err := client.Session().Info(lock, nil); err != nil || s == nil {
		t.Errorf("the lock's session was ended: %v, %v", s, err)
	}
	if all := mustNotes(t, client); len(all) != 2 {
		t.Errorf("both speak: %+v", all)
	}
}

// Without the rights there is no note, and that is said.
func TestNotesWithoutRights(t *testing.T) {
	t.Parallel()
	consul := consultest.Start(t, consultest.ACL())
	n := peers.Note{Node: a, Boot: "boot-1", State: peers.NoteWaits}
	for rules, want := range map[string]string{
		`key_prefix "p/s/" { policy = "write" }`:                                       "session:write",
		`key_prefix "p/s/" { policy = "read" } session_prefix "" { policy = "write" }`: "key:write",
	} {
		_, err := peers.Post(t.Context(), consul.ClientFor(rules), notes, n, 10*time.Second)
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, new(*peers.DeniedError)) {
			t.Errorf("%s: %v, want %s", rules, err, want)
		}
	}
	if sessions, _, err := consul.Client.Session().List(nil); err != nil || len(sessions) != 0 {
		t.Errorf("sessions are left: %v, %v", sessions, err)
	}
	p, err := peers.Post(t.Context(), consul.ClientFor(`key_prefix "p/s/" { policy = "write" } session_prefix "" { policy = "write" }`), notes, n, 10*time.Second)
	expect.Must(t, err)
	expect.Must(t, p.Remove(t.Context()))
}
