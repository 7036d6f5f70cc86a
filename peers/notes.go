package peers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// A Note is the word of a node that has no entry in the catalog: it waits, or its start came to
// nothing. Notes are for people who look at the whole cluster, and no decision reads them.
// Whoever may write below the key prefix may have written one.
type Note struct {
	Node    string    `json:"node"`
	Volume  string    `json:"volume,omitempty"` // id of its volume; "": it has none yet
	Boot    string    `json:"boot"`             // id of the start
	Host    string    `json:"host,omitempty"`   // that it runs on
	Version string    `json:"version,omitempty"`
	State   NoteState `json:"state"`
	Kind    string    `json:"kind,omitempty"`  // of a refusal
	Again   int       `json:"again,omitempty"` // starts that ended so before, one after the other
	Why     string    `json:"why"`
	Since   time.Time `json:"since"` // of State, by the node's clock
}

// NoteState is what a node without an entry is about.
type NoteState string

const (
	NoteWaits   NoteState = "waits"   // it has not decided yet
	NoteRefused NoteState = "refused" // its start was refused, and a person has to act
	NoteFailed  NoteState = "failed"  // its start ended with an error; it is started again, as a rule
)

// Kinds of refusals.
const (
	RefusedGone    = "the node left"
	RefusedVolume  = "the volume is ruled out"
	RefusedVersion = "its version"
)

// Refusals are all kinds there are.
var Refusals = []string{RefusedGone, RefusedVolume, RefusedVersion}

// Bounds of notes: of a text, of one note, and of all that are read.
const (
	mostWhy   = 1000    // characters
	mostNote  = 4 << 10 // bytes
	mostNotes = 200
)

// A Posted note is in Consul for as long as its session lives.
type Posted struct {
	client  *api.Client
	key     string
	session string
}

// Post writes a note below prefix, where it stays for life, which is 10 s to 24 h, and up to as
// long again, unless it is renewed. An earlier note of the same node on the same volume goes. It
// takes the rights to write below prefix and to open a session; without them there is no note.
func Post(ctx context.Context, client *api.Client, prefix string, n Note, life time.Duration) (*Posted, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w := new(api.WriteOptions).WithContext(ctx)
	if err := sweepNotes(ctx, client, prefix, n); err != nil {
		return nil, err
	}
	session, _, err := client.Session().CreateNoChecks(&api.SessionEntry{
		Name: noteSession(prefix, n.Node), TTL: life.String(), Behavior: api.SessionBehaviorDelete, LockDelay: time.Millisecond,
	}, w)
	if err != nil {
		return nil, fmt.Errorf("open a session for a note: %w", lacks(err, "session:write on the agent's Consul node"))
	}
	p := &Posted{client: client, key: prefix + n.Node + "/" + n.Boot, session: session}
	if err := p.Say(ctx, n); err != nil {
		quit, done := context.WithTimeout(context.WithoutCancel(ctx), callTimeout/2)
		defer done()
		_ = p.Remove(quit)
		return nil, err
	}
	return p, nil
}

// noteSession is the name of the sessions of a node's notes.
func noteSession(prefix, node string) string { return prefix + node }

// sweepNotes ends the sessions of earlier notes of the node on its volume, and where neither start
// has one, of starts on its host that have ended: who waits there may be a container beside. A session
// of another name is no note's, whatever is written below prefix.
func sweepNotes(ctx context.Context, client *api.Client, prefix string, n Note) error {
	pairs, err := listNotes(ctx, client, prefix+n.Node+"/")
	for _, p := range pairs {
		old, ok := note(p, prefix)
		over := old.Volume == n.Volume && (n.Volume != "" || n.Host != "" && old.Host == n.Host && old.State != NoteWaits)
		if !ok || old.Boot != n.Boot && !over {
			continue
		}
		s, _, err := client.Session().Info(p.Session, consistent(ctx))
		if err == nil && s != nil && s.Name == noteSession(prefix, n.Node) {
			_, err = client.Session().Destroy(p.Session, new(api.WriteOptions).WithContext(ctx))
		}
		if err != nil {
			return fmt.Errorf("end an earlier note of %s: %w", n.Node, err)
		}
	}
	return err
}

// Say replaces what the note says.
func (p *Posted) Say(ctx context.Context, n Note) error {
	n.Why = cut(n.Why)
	value, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode a note: %w", err)
	}
	ok, _, err := p.client.KV().Acquire(&api.KVPair{Key: p.key, Value: value, Session: p.session}, new(api.WriteOptions).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("write note %s: %w", p.key, lacks(err, fmt.Sprintf("key:write on %q", p.key)))
	}
	if !ok {
		return fmt.Errorf("write note %s: another session holds it", p.key)
	}
	return nil
}

// cut returns text as far as a note holds it.
func cut(text string) string {
	if runes := []rune(text); len(runes) > mostWhy {
		text = string(runes[:mostWhy]) + "…"
	}
	return text
}

// Renew has the note live on. An error means that it may be gone.
func (p *Posted) Renew(ctx context.Context) error {
	s, _, err := p.client.Session().Renew(p.session, new(api.WriteOptions).WithContext(ctx))
	if err == nil && s == nil {
		err = errors.New("the session is gone")
	}
	return err
}

// Remove takes the note back.
func (p *Posted) Remove(ctx context.Context) error {
	_, err := p.client.Session().Destroy(p.session, new(api.WriteOptions).WithContext(ctx))
	return err
}

// Notes returns the notes below prefix, by node, the newest of a node first: no more than so many,
// and none that nobody of this program can have written. The error, if any, means unknown.
func Notes(ctx context.Context, client *api.Client, prefix string) ([]Note, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pairs, err := listNotes(ctx, client, prefix)
	if err != nil {
		return nil, err
	}
	var all []Note
	for _, p := range pairs {
		if n, ok := note(p, prefix); ok && len(all) < mostNotes {
			all = append(all, n)
		}
	}
	slices.SortStableFunc(all, func(a, b Note) int { return cmp.Or(strings.Compare(a.Node, b.Node), b.Since.Compare(a.Since)) })
	return all, nil
}

// listNotes returns the keys below prefix; none where there is none, or the token may read none.
func listNotes(ctx context.Context, client *api.Client, prefix string) (api.KVPairs, error) {
	pairs, _, err := client.KV().List(prefix, consistent(ctx))
	if err != nil {
		return nil, fmt.Errorf("read notes below %s: %w", prefix, lacks(err, fmt.Sprintf("key:read on %q", prefix)))
	}
	if slices.Contains(pairs, nil) {
		return nil, fmt.Errorf("read notes below %s: %w", prefix, errHollow)
	}
	return pairs, nil
}

// note reads one: not ok is no note of this program's. What nobody holds is left over.
func note(p *api.KVPair, prefix string) (n Note, ok bool) {
	if p.Session == "" || len(p.Value) > mostNote || json.Unmarshal(p.Value, &n) != nil {
		return n, false
	}
	if validNode(n.Node) != nil || p.Key != prefix+n.Node+"/"+n.Boot { // each lies under its own name
		return n, false
	}
	if !slices.Contains([]NoteState{NoteWaits, NoteRefused, NoteFailed}, n.State) {
		return n, false
	}
	n.Why = Plain(cut(n.Why))
	n.Volume, n.Boot, n.Host, n.Version, n.Kind = short(n.Volume), short(n.Boot), short(n.Host), short(n.Version), short(n.Kind)
	n.Again = min(max(n.Again, 0), 1<<20)
	return n, true
}
