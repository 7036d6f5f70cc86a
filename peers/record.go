package peers

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/consul/api"
)

// State of the cluster record.
type State string

const (
	Absent  State = ""        // no cluster was ever claimed here, or Consul lost its data
	Forming State = "forming" // a seed has claimed the founding and has not announced it
	Formed  State = "formed"  // there is a cluster; ClusterID is RabbitMQ's own
)

// Record is the cluster's one permanent key in Consul. It is only ever changed
// by compare-and-set ([WriteRecord]), so two nodes can never both believe that
// they founded the cluster.
//
// Members is a superset of the nodes whose volumes may hold data: a seed's claim
// names the seed, a joiner adds itself before its server starts, and only a node
// itself takes itself off, or an operator: by `forget-cluster`, which a member that serves
// takes back, by `forget`, or by making RabbitMQ forget it. An empty volume id was published by somebody else and refuses nobody.
type Record struct {
	State      State             `json:"state"`
	ClusterID  string            `json:"cluster_id,omitempty"` // filled in at Formed
	Formerly   []string          `json:"formerly,omitempty"`   // ids that RabbitMQ gave this same cluster before, newest first
	Claim      string            `json:"claim,omitempty"`      // random, one per founding
	Session    string            `json:"session,omitempty"`    // of the claimant, while Forming
	Seed       string            `json:"seed,omitempty"`       // node that claimed
	Since      time.Time         `json:"since"`                // of State
	Members    map[string]string `json:"members"`              // node → volume id
	Joining    map[string]string `json:"joining,omitempty"`    // members on their first volume that were not verified yet, and that volume
	Unverified map[string]string `json:"unverified,omitempty"` // members that joined anew and were not verified yet, and that volume: it may be another container's of that name
	Gone       map[string]Gone   `json:"gone,omitempty"`       // nodes that took themselves off, or were given up
	Replaced   []Replaced        `json:"replaced,omitempty"`   // volumes of nodes that are back on another one, newest first
	Previous   []Previous        `json:"previous,omitempty"`   // clusters this one replaced, newest first
	Versions   map[string]string `json:"versions,omitempty"`   // node → RabbitMQ version it was last verified with: beside that of a member whose entry says so too, no other one starts
	Queues     string            `json:"queues,omitempty"`     // what queues are in this cluster that name no type; empty: not said yet
	Revision   string            `json:"revision"`             // random, one per write: tells whether a write whose answer was lost took place
}

// Gone says when and why a node is no longer a member.
type Gone struct {
	Volume string    `json:"volume,omitempty"`
	At     time.Time `json:"at"`
	Why    string    `json:"why"`
	By     string    `json:"by,omitempty"`   // who wrote this: a node or a command, and its host; empty in older records
	Left   bool      `json:"left,omitempty"` // in good order: nothing was lost with it, and the cluster forgets it

	// Nobody has decided to go on without that volume yet: should it come back, it is a
	// member again. A blank volume under the name is no such decision.
	MayReturn bool `json:"may_return,omitempty"`
	Final     bool `json:"final,omitempty"` // the cluster went on without that volume's data

	// RabbitMQ was made to forget it while it was down, by hand or by `forget`: listed and
	// running again, it is a member.
	Forgotten bool `json:"forgotten,omitempty"`

	// It never was a member on any volume, its join came to nothing: nothing was lost
	// with it, but RabbitMQ may count it in.
	Unjoined bool `json:"unjoined,omitempty"`
}

// Replaced says when and why a volume was given up, whose node has joined again on
// another one.
type Replaced struct {
	Node string `json:"node"`
	Gone
}

// Previous is a cluster that a later founding replaced.
type Previous struct {
	ClusterID string          `json:"cluster_id"`
	Until     time.Time       `json:"until"`
	Members   []string        `json:"members,omitempty"`
	Gone      map[string]Gone `json:"gone,omitempty"`
}

// NewID returns a random id for a claim, a volume or a revision.
func NewID() string { return strings.ToLower(rand.Text()) }

// ReadRecord reads the record through the Consul leader. An index of 0 means
// that there is none; an error means unknown.
func ReadRecord(ctx context.Context, client *api.Client, key string) (Record, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pair, _, err := readKey(client, key, consistent(ctx))
	if err != nil {
		return Record{}, 0, fmt.Errorf("read cluster record %s: %w", key, lacks(err, fmt.Sprintf("key:read on %q", key)))
	}
	if pair == nil {
		return Record{}, 0, nil
	}
	var r Record
	if err = json.Unmarshal(pair.Value, &r); err == nil {
		err = r.plausible()
	}
	if err != nil {
		return Record{}, 0, fmt.Errorf("cluster record %s holds %.60q, which no program of this kind wrote (%s): restore it from a backup of Consul, or delete the key while a member with data runs and it will publish it again (where no node has data, just delete it)", key, pair.Value, Plain(err.Error()))
	}
	if r.Members == nil {
		r.Members = map[string]string{}
	}
	return r, pair.ModifyIndex, nil
}

// readKey returns what is at key, nil where Consul positively has nothing: it says 404 then.
// KV().Get takes an answer that is null, or empty, for that, too.
func readKey(client *api.Client, key string, q *api.QueryOptions) (*api.KVPair, *api.QueryMeta, error) {
	var found []*api.KVPair
	meta, err := client.Raw().Query("/v1/kv/"+key, &found, q)
	var status api.StatusError
	switch {
	case errors.As(err, &status) && status.Code == http.StatusNotFound:
		return nil, new(api.QueryMeta), nil
	case err != nil:
		return nil, nil, err
	case len(found) != 1 || found[0] == nil || found[0].Key != key:
		return nil, nil, errHollow
	}
	return found[0], meta, nil
}

// Bounds of a record, far above what a cluster comes to: what is larger, nobody of us wrote.
const (
	mostNodes = 1000 // on record as members, and as gone
	mostChars = 1000 // of a text
)

// plausible returns an error when no program of this kind can have written the record: it
// is unknown then, not a fact. Whoever leaves a cluster stays on record as gone, and a
// claim names its seed as the one member.
func (r Record) plausible() error {
	switch {
	case r.State != Forming && r.State != Formed:
		return fmt.Errorf("its state is %.30q", r.State)
	case r.State == Formed && r.ClusterID == "":
		return errors.New("it is formed and has no cluster_id")
	case r.State == Formed && len(r.Members)+len(r.Gone) == 0:
		return errors.New("it is formed, and nobody is a member or gone")
	case r.State == Forming && r.Claim == "":
		return errors.New("it is forming and has no claim")
	case r.State == Forming && r.Members[r.Seed] == "":
		return fmt.Errorf("it is forming, and the seed %.60q is no member with a volume", r.Seed)
	case len(r.Members) > mostNodes || len(r.Gone) > mostNodes: // more gone than one of ours ever has
		return fmt.Errorf("it has %d members and %d nodes that are gone", len(r.Members), len(r.Gone))
	}
	var names []string
	texts := []string{r.ClusterID, r.Claim, r.Session, r.Queues, r.Revision}
	for _, volumes := range []map[string]string{r.Members, r.Joining, r.Unverified} {
		for n, volume := range volumes {
			names, texts = append(names, n), append(texts, volume)
		}
	}
	texts = append(texts, r.Formerly...)
	gone := func(n string, g Gone) { names, texts = append(names, n), append(texts, g.Volume, g.Why, g.By) }
	for n, g := range r.Gone {
		gone(n, g)
	}
	for _, old := range r.Replaced {
		gone(old.Node, old.Gone)
	}
	for _, p := range r.Previous {
		names, texts = append(names, p.Members...), append(texts, p.ClusterID)
		for n, g := range p.Gone {
			gone(n, g)
		}
	}
	for n, version := range r.Versions {
		names, texts = append(names, n), append(texts, version)
	}
	if r.Seed != "" {
		names = append(names, r.Seed)
	}
	for _, n := range names {
		if err := validNode(n); err != nil {
			return err
		}
	}
	for _, text := range texts {
		if len(text) > mostChars || strings.ContainsFunc(text, unicode.IsControl) {
			return fmt.Errorf("%.60q is too long, or has control characters", text)
		}
	}
	return nil
}

// validNode returns an error unless that is a node's name. It is where names that come from
// Consul are judged.
func validNode(name string) error {
	if len(name) > 255 || !nodeName.MatchString(name) || strings.Contains(name, "..") {
		return fmt.Errorf("%.60q is no node's name", name)
	}
	return nil
}

// nodeName is name@host, as Erlang and DNS allow it.
var nodeName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*@[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?$`)

// WriteRecord replaces the record read at index (0: there was none) and reports
// whether it did; false means that somebody else was faster, so decide anew. With
// a session it writes only while that session holds lockKey, in one transaction.
//
// When the answer is lost the record is read again: it is never assumed and never
// repeated unseen. An error means that even that did not tell.
func WriteRecord(ctx context.Context, client *api.Client, key string, r Record, index uint64, lockKey, session string) (bool, error) {
	r = r.pruned()
	r.Revision = NewID()
	value, err := json.Marshal(r)
	if err != nil {
		return false, fmt.Errorf("encode cluster record: %w", err)
	}
	ops := api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVCAS, Key: key, Value: value, Index: index}}}
	if session != "" {
		ops = append(api.TxnOps{{KV: &api.KVTxnOp{Verb: api.KVCheckSession, Key: lockKey, Session: session}}}, ops...)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ok, answer, _, err := client.Txn().Txn(ops, consistent(call))
	if err == nil && !ok {
		for _, e := range answer.Errors { // a missing right looks like a lost race: 409
			if e != nil && strings.Contains(e.What, "ermission denied") {
				return false, fmt.Errorf("write cluster record: %w", &DeniedError{fmt.Sprintf("key:write on %q", key), errors.New(short(e.What))})
			}
		}
	}
	if ok && len(answer.Results) == 0 { // Consul says what it wrote
		err = errHollow
	}
	if err == nil {
		return ok, nil
	}
	if err = lacks(err, fmt.Sprintf("key:write on %q", key)); errors.As(err, new(*DeniedError)) {
		return false, fmt.Errorf("write cluster record: %w", err)
	}
	now, _, rerr := ReadRecord(ctx, client, key)
	if rerr != nil {
		return false, fmt.Errorf("write cluster record %s: %w (and it could not be read again: %v)", key, err, rerr)
	}
	if now.Revision == r.Revision {
		return true, nil
	}
	return false, fmt.Errorf("write cluster record %s: %w", key, err)
}

// How many of those that are gone a record names: of those that went with nothing lost, and of
// the others, whose volumes may turn up again. One that is named no more is refused all the same,
// for it is not on record. So a record stays far below the 512 KiB that Consul takes.
const (
	mostLeft = 100
	mostGone = 400
)

// pruned returns the record without the oldest of those that are gone: with a new name for
// each container they would fill it.
func (r Record) pruned() Record {
	r.Gone = newest(r.Gone, mostLeft, func(g Gone) bool { return g.Left || g.Unjoined })
	r.Gone = newest(r.Gone, mostGone, func(g Gone) bool { return !g.Left && !g.Unjoined })
	r.Previous = slices.Clone(r.Previous)
	for i := range r.Previous {
		r.Previous[i].Gone = newest(r.Previous[i].Gone, mostLeft, func(Gone) bool { return true })
	}
	return r
}

// newest returns gone without all but so many of a kind, those that went last.
func newest(gone map[string]Gone, most int, kind func(Gone) bool) map[string]Gone {
	var of []string
	for n, g := range gone {
		if kind(g) {
			of = append(of, n)
		}
	}
	if len(of) <= most {
		return gone
	}
	slices.SortFunc(of, func(a, b string) int { return cmp.Or(gone[a].At.Compare(gone[b].At), strings.Compare(a, b)) })
	gone = maps.Clone(gone)
	for _, n := range of[:len(of)-most] {
		delete(gone, n)
	}
	return gone
}

// Is reports whether the record is of that cluster, by an id that RabbitMQ gave it, now or
// before.
func (r Record) Is(clusterID string) bool {
	return clusterID != "" && (r.ClusterID == clusterID || slices.Contains(r.Formerly, clusterID))
}

// Names returns the members in order.
func (r Record) Names() []string { return slices.Sorted(maps.Keys(r.Members)) }

func (r Record) describe() string {
	id := r.ClusterID
	if id == "" {
		id = "(forming)"
	}
	return fmt.Sprintf("%s with members %s", id, Some(r.Names()))
}

func modified(p *api.KVPair) uint64 {
	if p == nil {
		return 0
	}
	return p.ModifyIndex
}

// String says what is on record, for people.
func (r Record) String() string {
	if r.State == Absent {
		return "gone"
	}
	return fmt.Sprintf("%s, cluster %q, members %s", r.State, r.ClusterID, Some(r.Names()))
}

// Has reports whether the record has the node's name for that volume.
func (r Record) Has(node, volume string) bool {
	return volume != "" && r.Members[node] == volume
}

// Stray reports whether an entry has a node's name and passes, and the record of a cluster does not
// have that node: clients are sent there.
func (r Record) Stray(p Peer) bool {
	_, on := r.Members[p.Node]
	return r.State == Formed && !on && p.Passing && !p.Foreign()
}
