// Package statedir is what this program keeps on the volume, in a directory beside
// RabbitMQ's own: the marker, orders, the runtime file and locks.
package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// Role is what a node's server is started as.
type Role string

const (
	Seeding Role = "seeding" // founds the cluster under a claim
	Joining Role = "joining" // joins the members on record
	Alone   Role = "alone"   // came up alone by accident, found nobody to join: blank for the decision
	Member  Role = "member"  // has data: starts at once, whatever Consul says
	Lone    Role = "single"  // a lone broker, in no cluster
)

// Pending is written before the server's first start on a blank volume and
// removed once the node is verified.
type Pending struct {
	Role   Role   `json:"role"`
	Claim  string `json:"claim,omitempty"`  // of the record it was decided under
	Volume string `json:"volume"`           // a random name given to this volume
	Failed bool   `json:"failed,omitempty"` // joining: it came to nothing
	Alone  bool   `json:"alone,omitempty"`  // seeding: with what the node founded before, by accident
}

// Marker is the marker: this volume belongs to a verified member.
type Marker struct {
	ClusterID string    `json:"cluster_id"`
	Volume    string    `json:"volume"`
	Members   []string  `json:"members"`          // as RabbitMQ last listed them
	At        time.Time `json:"at"`               // until when it served, to half a minute
	Regrow    bool      `json:"regrow,omitempty"` // replicas of quorum queues are still to be brought back

	RabbitMQ string `json:"rabbitmq,omitempty"` // version that serves
	Erlang   string `json:"erlang,omitempty"`   // version it runs on
}

// Dir is what lies on the disk: RabbitMQ's own directory and ours beside it.
type Dir struct {
	Data  string // RabbitMQ's directory of this node
	State string // ours
}

func Of(c config.Config) Dir { return Dir{c.Data, c.StateDir} }

// Make makes the state directory, closed to all but its owner and its group: who may search it
// could hold its locks and read what lies there. One that was left open is closed, if it is
// this user's.
func (v Dir) Make() error {
	if err := os.MkdirAll(filepath.Dir(v.State), 0o755); err != nil { // #nosec G301 -- RabbitMQ's own directory, as it makes it
		return err
	}
	if err := os.Mkdir(v.State, 0o750); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return closeToOthers(v.State)
}

// closeToOthers takes their rights on a directory of this user's from all but its owner and its
// group, where the file system keeps modes.
func closeToOthers(dir string) error {
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&0o007 == 0 {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return nil
	}
	_ = os.Chmod(dir, info.Mode()&(fs.ModeSetgid|0o770))
	return nil
}

// What no program of ours can have written is damaged, not a fact.
func (v Dir) Pending() (p *Pending, err error) {
	p, err = readJSON[Pending](v.file("pending"))
	if p != nil && (p.Volume == "" || !slices.Contains([]Role{Seeding, Joining, Alone, Member}, p.Role)) {
		return nil, damaged(v.file("pending"), fmt.Errorf("role %.30q, volume %.60q", p.Role, p.Volume))
	}
	return p, err
}

func (v Dir) Marker() (m *Marker, err error) {
	m, err = readJSON[Marker](v.file("member"))
	if m != nil && (m.Volume == "" || m.ClusterID == "") {
		return nil, damaged(v.file("member"), fmt.Errorf("cluster_id %.60q, volume %.60q", m.ClusterID, m.Volume))
	}
	return m, err
}

func (v Dir) file(name string) string { return filepath.Join(v.State, name) }

func (v Dir) WritePending(p Pending) error { return writeJSON(v.file("pending"), p) }

// WriteMarker makes the node a member: first the marker, then pending goes, so
// that a crash in between leaves a marker, which wins.
func (v Dir) WriteMarker(m Marker) error {
	if err := writeJSON(v.file("member"), m); err != nil {
		return err
	}
	return v.Remove("pending")
}

func (v Dir) Remove(name string) error {
	if err := os.Remove(v.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// HasDatabase reports whether RabbitMQ has initialised its directory. A node that
// is still in discovery already has other files there; these two appear only once
// it has a schema (measured on 3.10, 4.0 and 4.3).
func HasDatabase(dir string) (bool, error) {
	for _, name := range []string{"schema.DAT", "rabbit_serial"} {
		switch _, err := os.Stat(filepath.Join(dir, name)); {
		case err == nil:
			return true, nil
		case !errors.Is(err, fs.ErrNotExist):
			return false, err // unknown is not "blank"
		}
	}
	return false, nil
}

// Found is what the volume says of how to start.
type Found struct {
	Role    Role // member, lone, or the pending role of a volume with a database; "" is blank
	Volume  string
	Cluster string   // of a member's marker
	Members []string // as the marker last knew them
	Queues  *Queues  // what was decided about queues; nil: nothing
	Claim   string
	Alone   bool   // blank for the decision, though there is a database
	Joining bool   // blank, and a join was under way
	Failed  bool   // blank, and a join came to nothing
	Lost    string // blank, though a marker says that there was this cluster's data

	WasAlone bool // seeding with what it founded by accident: blank for the decision, if it never claimed
}

// Blank returns what is found of a node that came up alone by accident: it is blank for the
// decision, and for what follows.
func (f Found) Blank() Found {
	f.Role, f.Alone = "", true
	return f
}

// Inspect reads the volume. "No marker means blank" would wipe a joiner that had
// really joined, and "no data means blank" would forget whose volume it was.
func (v Dir) Inspect() (c Found, err error) {
	data, err := HasDatabase(v.Data)
	if err != nil {
		return c, err
	}
	pending, err := v.Pending()
	if err != nil {
		return c, err
	}
	marker, err := v.Marker()
	if err != nil {
		return c, err
	}
	lone, err := v.Single()
	if err != nil {
		return c, err
	}
	if c.Queues, err = v.Queues(); err != nil {
		return c, err
	}
	if marker != nil && !data {
		// A marker beside a directory with something in it is data of a kind we do
		// not know: start. Only nothing at all is a lost directory.
		entries, err := os.ReadDir(v.Data)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
		if data = len(entries) > 0; !data {
			c.Lost = marker.ClusterID
		}
	}
	switch {
	case data && marker != nil:
		c.Role, c.Volume, c.Cluster, c.Members = Member, marker.Volume, marker.ClusterID, marker.Members
	case pending != nil && data && pending.Role != Alone:
		c.Role, c.Volume, c.Claim = pending.Role, pending.Volume, pending.Claim
		c.WasAlone = pending.Role == Seeding && pending.Alone
	case pending != nil:
		c.Volume, c.Claim, c.Alone = pending.Volume, pending.Claim, data
		c.Joining, c.Failed = pending.Role == Joining && !pending.Failed, pending.Role == Joining && pending.Failed && marker == nil
	case data && lone != nil:
		c.Role, c.Volume = Lone, lone.Volume
	case data:
		c.Role = Member
	}
	return c, nil
}

// ForeignDatabases returns the databases of other node names beside this node's: a
// container recreated with another host name would silently start empty.
func (v Dir) ForeignDatabases() ([]string, error) {
	base := filepath.Dir(v.Data)
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var found []string
	for _, e := range entries {
		dir := filepath.Join(base, e.Name())
		if dir == v.Data || !e.IsDir() || !strings.Contains(e.Name(), "@") || strings.Contains(e.Name(), ".aside-") {
			continue
		}
		data, derr := HasDatabase(dir)
		if data {
			found = append(found, e.Name())
		}
		err = errors.Join(err, derr)
	}
	return found, err
}

// MakeWay moves what RabbitMQ left of an unfinished start out of the way of the plan, and
// returns where to.
func (v Dir) MakeWay(p Pending, now time.Time) (aside string, err error) {
	if aside, err = v.moveAside(now); err != nil || p.Role != Joining {
		return aside, err
	}
	return aside, v.WritePending(p)
}

// moveAside renames RabbitMQ's leftovers of an unfinished start out of the way of
// the next one, and deletes nothing.
func (v Dir) moveAside(now time.Time) (string, error) {
	entries, err := os.ReadDir(v.Data)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	aside := v.Data + ".aside-" + now.UTC().Format("20060102T150405")
	return aside, os.Rename(v.Data, aside)
}

func readJSON[T any](path string) (*T, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, damaged(path, err)
	}
	return v, nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("%s is damaged (%s): restore it, or remove it and, if the node is refused then, delete the record's key in Consul while another member runs", path, strings.ReplaceAll(err.Error(), "\x7f", `\x7f`)) // which a time is quoted with
}

// writeJSON replaces path whole or not at all, and is on disk when it returns.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return rabbitconf.Write(path, append(b, '\n'))
}
