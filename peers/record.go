package peers

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

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
// itself takes itself off, or an operator's `found`, which a member that serves
// takes back. An empty volume id was published by somebody else and refuses nobody.
type Record struct {
	State     State             `json:"state"`
	ClusterID string            `json:"cluster_id,omitempty"` // filled in at Formed
	Claim     string            `json:"claim,omitempty"`      // random, one per founding
	Session   string            `json:"session,omitempty"`    // of the claimant, while Forming
	Seed      string            `json:"seed,omitempty"`       // node that claimed
	Since     time.Time         `json:"since"`                // of State
	Members   map[string]string `json:"members"`              // node → volume id
	Joining   map[string]string `json:"joining,omitempty"`    // members on their first volume that were not verified yet, and that volume
	Gone      map[string]Gone   `json:"gone,omitempty"`       // nodes that took themselves off, or were given up
	Replaced  []Replaced        `json:"replaced,omitempty"`   // volumes of nodes that are back on another one, newest first
	Previous  []Previous        `json:"previous,omitempty"`   // clusters this one replaced, newest first
	Revision  string            `json:"revision"`             // random, one per write: tells whether a write whose answer was lost took place
}

// Gone says when and why a node is no longer a member.
type Gone struct {
	Volume string    `json:"volume,omitempty"`
	At     time.Time `json:"at"`
	Why    string    `json:"why"`
	By     string    `json:"by,omitempty"`   // who wrote this: a node or a command, and its host; empty in older records
	Left   bool      `json:"left,omitempty"` // in good order: nothing was lost with it, and the cluster forgets it

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
	pair, _, err := client.KV().Get(key, consistent(ctx))
	if err != nil {
		return Record{}, 0, fmt.Errorf("read cluster record %s: %w", key, lacks(err, fmt.Sprintf("key:read on %q", key)))
	}
	if pair == nil {
		return Record{}, 0, nil
	}
	var r Record
	if err := json.Unmarshal(pair.Value, &r); err != nil || r.State != Forming && r.State != Formed {
		return Record{}, 0, fmt.Errorf("cluster record %s holds %.60q, which is no record of this program (%v): restore it, or delete the key while a member with data runs and it will publish it again", key, pair.Value, err)
	}
	if r.Members == nil {
		r.Members = map[string]string{}
	}
	return r, pair.ModifyIndex, nil
}

// WriteRecord replaces the record read at index (0: there was none) and reports
// whether it did; false means that somebody else was faster, so decide anew. With
// a session it writes only while that session holds lockKey, in one transaction.
//
// When the answer is lost the record is read again: it is never assumed and never
// repeated unseen. An error means that even that did not tell.
func WriteRecord(ctx context.Context, client *api.Client, key string, r Record, index uint64, lockKey, session string) (bool, error) {
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
			if strings.Contains(e.What, "ermission denied") {
				return false, fmt.Errorf("write cluster record: %w", &DeniedError{fmt.Sprintf("key:write on %q", key), errors.New(e.What)})
			}
		}
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

// Claimed returns the record by which node claims the founding of a new cluster
// on its volume. What r said of an earlier cluster goes to Previous.
func (r Record) Claimed(node, volume, session string, now time.Time) Record {
	c := Record{
		State: Forming, Claim: NewID(), Session: session, Seed: node, Since: now.UTC(),
		Members: map[string]string{node: volume}, Previous: slices.Clone(r.Previous),
	}
	if r.ClusterID != "" {
		c.Previous = slices.Insert(c.Previous, 0, Previous{ClusterID: r.ClusterID, Until: now.UTC(), Members: r.Names(), Gone: r.Gone})
		c.Previous = c.Previous[:min(len(c.Previous), kept)]
	}
	return c
}

// Founded returns the record with the cluster that RabbitMQ says it is.
func (r Record) Founded(clusterID string, now time.Time) Record {
	r.State, r.ClusterID, r.Session, r.Since = Formed, clusterID, "", now.UTC()
	return r
}

// kept is how many of the clusters and volumes that were replaced a record names.
const kept = 8

// With returns the record with node as a member on volume.
func (r Record) With(node, volume string) Record {
	r.Members, r.Gone = maps.Clone(r.Members), maps.Clone(r.Gone)
	if r.Members == nil {
		r.Members = map[string]string{}
	}
	if g := r.Gone[node]; g.Volume != "" && volume != "" && g.Volume != volume {
		r.Replaced = slices.Insert(slices.Clone(r.Replaced), 0, Replaced{node, g})
		r.Replaced = r.Replaced[:min(len(r.Replaced), kept)]
	}
	r.Members[node] = volume
	delete(r.Gone, node)
	r.Joining = maps.Clone(r.Joining)
	delete(r.Joining, node)
	return r
}

// Joins returns the record with node as a member that is about to join on volume.
// Until it is verified, that volume holds nothing that could be lost, if no earlier
// one of the node's did.
func (r Record) Joins(node, volume string) Record {
	on, listed := r.Members[node]
	g, gone := r.Gone[node]
	first := listed && on != "" && r.Joining[node] == on || !listed && (!gone || g.Unjoined || g.Left)
	r = r.With(node, volume)
	if first {
		if r.Joining == nil {
			r.Joining = map[string]string{}
		}
		r.Joining[node] = volume
	}
	return r
}

// Without returns the record after node took itself off it.
func (r Record) Without(node, why string, now time.Time) Record {
	r.Members, r.Gone = maps.Clone(r.Members), maps.Clone(r.Gone)
	if r.Gone == nil {
		r.Gone = map[string]Gone{}
	}
	r.Gone[node] = Gone{Volume: r.Members[node], At: now.UTC(), Why: why}
	delete(r.Members, node)
	r.Joining = maps.Clone(r.Joining)
	delete(r.Joining, node)
	return r
}

// Struck returns the record after node, whose volume came up blank, took itself off it.
func (r Record) Struck(node, volume string, now time.Time) Record {
	if volume == "" || r.Members[node] != volume || r.Joining[node] != volume {
		return r.Without(node, "its volume came up blank", now)
	}
	r = r.Without(node, "its join came to nothing", now)
	g := r.Gone[node]
	g.Unjoined = true
	r.Gone[node] = g
	return r
}

// Left returns the record after node left the cluster for good, with its replicas
// moved away.
func (r Record) Left(node, why string, now time.Time) Record {
	r = r.Without(node, why, now)
	g := r.Gone[node]
	g.Left = true
	r.Gone[node] = g
	return r
}

// HasLeft reports whether node left the cluster for good with that volume.
func (r Record) HasLeft(node, volume string) bool {
	g, gone := r.Gone[node]
	_, on := r.Members[node]
	return gone && !on && g.Left && g.Volume == volume && volume != ""
}

// GaveUp returns when that volume of node's was given up: it left, was struck, or
// replaced. The zero time: nothing on record says so.
func (r Record) GaveUp(node, volume string) time.Time {
	if g, gone := r.Gone[node]; gone && g.Volume == volume && volume != "" {
		return g.At
	}
	for _, old := range r.Replaced {
		if old.Node == node && old.Volume == volume {
			return old.At
		}
	}
	return time.Time{}
}

// Published returns a formed record as a running member knows its cluster: all
// members RabbitMQ lists, with this node's volume id and nobody else's.
func Published(v View, node, volume string, now time.Time) Record {
	r := Record{State: Formed, ClusterID: v.ClusterID, Claim: NewID(), Seed: node, Since: now.UTC(), Members: map[string]string{}}
	for _, m := range v.Members {
		r.Members[m] = ""
	}
	r.Members[node] = volume
	return r
}

// Names returns the members in order.
func (r Record) Names() []string { return slices.Sorted(maps.Keys(r.Members)) }

// Refuses says why node's volume, which holds data of the cluster clusterID, must
// not be started beside this record, or "" when nothing on record speaks against
// it. An empty volume or cluster id is data that never knew this program: only
// the record of another cluster could refuse it, and RabbitMQ will tell.
func (r Record) Refuses(node, volume, clusterID string) string {
	if r.State == Absent || clusterID == "" && volume == "" {
		return ""
	}
	on, member := r.Members[node]
	if clusterID == "" { // not verified before: ruled out only where its very volume is
		replaced := slices.ContainsFunc(r.Replaced, func(old Replaced) bool { return old.Node == node && old.Volume == volume })
		if r.Gone[node].Volume != volume && !(replaced && on != volume) {
			return ""
		}
		clusterID = r.ClusterID
	}
	for _, p := range r.Previous {
		if p.ClusterID == clusterID {
			return fmt.Sprintf("this volume holds data of cluster %s, which was replaced on %s by %s", clusterID, p.Until.Format(time.RFC3339), r.describe())
		}
	}
	if r.State != Formed {
		return ""
	}
	if r.ClusterID != clusterID {
		return fmt.Sprintf("this volume holds data of cluster %s, but the cluster on record since %s is %s", clusterID, r.Since.Format(time.RFC3339), r.describe())
	}
	switch g, gone := r.Gone[node]; {
	case member && (on == "" || on == volume || volume == ""):
		return ""
	case member:
		when := ""
		if i := slices.IndexFunc(r.Replaced, func(old Replaced) bool { return old.Node == node && old.Volume == volume }); i >= 0 {
			when = fmt.Sprintf(" on %s (%s)", r.Replaced[i].At.Format(time.RFC3339), r.Replaced[i].Why)
		}
		return fmt.Sprintf("this volume (%s) was replaced%s: %s is on record with volume %s in cluster %s, on record since %s", volume, when, node, on, r.describe(), r.Since.Format(time.RFC3339))
	case gone && g.Left:
		return fmt.Sprintf("%s left cluster %s for good on %s (%s), which went on with %s", node, clusterID, g.At.Format(time.RFC3339), g.Why, strings.Join(r.Names(), ", "))
	case gone && len(r.Members) == 0:
		return fmt.Sprintf("%s; nobody is on record any more, and the next blank node founds another cluster", g.Told(node, "cluster "+clusterID))
	case gone:
		return fmt.Sprintf("%s; on record without it: %s (look there whether they carried on before you give this volume up)", g.Told(node, "cluster "+clusterID), strings.Join(r.Names(), ", "))
	default:
		return fmt.Sprintf("%s is no longer on record as a member of cluster %s, on record since %s", node, r.describe(), r.Since.Format(time.RFC3339))
	}
}

func (r Record) describe() string {
	id := r.ClusterID
	if id == "" {
		id = "(forming)"
	}
	return fmt.Sprintf("%s with members %s", id, strings.Join(r.Names(), ", "))
}

func modified(p *api.KVPair) uint64 {
	if p == nil {
		return 0
	}
	return p.ModifyIndex
}
