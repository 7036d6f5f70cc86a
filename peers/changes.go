package peers

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// Each change returns another record, to be written by compare-and-set, and leaves the one
// that it is made from as it is.

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

// Renamed returns the record after RabbitMQ has given the same cluster another id.
func (r Record) Renamed(clusterID string) Record {
	formerly := slices.DeleteFunc(slices.Clone(r.Formerly), func(id string) bool { return id == clusterID })
	r.Formerly = slices.Insert(formerly, 0, r.ClusterID)
	r.Formerly = r.Formerly[:min(len(r.Formerly), kept)]
	r.ClusterID = clusterID
	return r
}

// kept is how many of the clusters and volumes that were replaced a record names.
const kept = 8

// With returns the record with node as a member on volume, for good: earlier ones of the
// node's may not come back.
func (r Record) With(node, volume string) Record {
	r = r.with(node, volume)
	for i, old := range r.Replaced {
		if old.Node == node {
			r.Replaced[i].MayReturn = false
		}
	}
	return r
}

// with replaces what the record says of node. The volume that is gone goes to Replaced.
func (r Record) with(node, volume string) Record {
	r.Members, r.Gone, r.Replaced = maps.Clone(r.Members), maps.Clone(r.Gone), slices.Clone(r.Replaced)
	if r.Members == nil {
		r.Members = map[string]string{}
	}
	if g := r.Gone[node]; (g.Volume != "" || g.MayReturn) && volume != "" && g.Volume != volume {
		r.Replaced = slices.Insert(r.Replaced, 0, Replaced{node, g})
		r.Replaced = r.Replaced[:min(len(r.Replaced), kept)]
	}
	r.Replaced = slices.DeleteFunc(r.Replaced, func(old Replaced) bool { return old.Node == node && old.Volume == volume && volume != "" })
	r.Members[node] = volume
	delete(r.Gone, node)
	return r.verified(node)
}

// Forgotten returns the record after RabbitMQ was made to forget node: no earlier volume of
// it can be a member any more.
func (r Record) Forgotten(node string) Record {
	r.Replaced = slices.Clone(r.Replaced)
	for i := range r.Replaced {
		if r.Replaced[i].Node == node {
			r.Replaced[i].MayReturn, r.Replaced[i].Final = false, true
		}
	}
	return r
}

// ForgottenByHand returns the record after RabbitMQ was found to have forgotten node, which
// nobody of this program made it do.
func (r Record) ForgottenByHand(node string, now time.Time) Record {
	r = r.Without(node, "RabbitMQ was made to forget it, by hand", now)
	g := r.Gone[node]
	g.Forgotten = true
	r.Gone[node] = g
	return r.Forgotten(node)
}

// ForgottenByOrder returns the record after an operator had the cluster forget node, which was
// down. It is off in good order: RabbitMQ is still to forget it, which the members finish, and no
// volume of it may come back.
func (r Record) ForgottenByOrder(node, why string, now time.Time) Record {
	volume := cmp.Or(r.Members[node], r.Gone[node].Volume)
	r = r.Without(node, why, now)
	g := r.Gone[node]
	g.Volume, g.Left, g.Forgotten = volume, true, true
	r.Gone[node] = g
	return r.Forgotten(node)
}

// TakenBack returns r with all that was said of node in was, from which off was made. Where r is
// off, as nobody wrote since, it returns was.
func (r Record) TakenBack(node string, was, off Record) Record {
	if r.same(off) {
		return was
	}
	r.Members = back(r.Members, was.Members, node)
	r.Joining, r.Unverified = back(r.Joining, was.Joining, node), back(r.Unverified, was.Unverified, node)
	r.Gone, r.Versions = back(r.Gone, was.Gone, node), back(r.Versions, was.Versions, node)
	others := slices.DeleteFunc(slices.Clone(r.Replaced), func(old Replaced) bool { return old.Node == node })
	own := slices.DeleteFunc(slices.Clone(was.Replaced), func(old Replaced) bool { return old.Node != node })
	r.Replaced = append(own, others...)
	r.Replaced = r.Replaced[:min(len(r.Replaced), kept)]
	return r
}

// back returns now with what was says of node, or with nothing of it.
func back[V any](now, was map[string]V, node string) map[string]V {
	now = maps.Clone(now)
	delete(now, node)
	if v, said := was[node]; said {
		if now == nil {
			now = map[string]V{}
		}
		now[node] = v
	}
	return now
}

// same reports whether r is what a write of other left in Consul.
func (r Record) same(other Record) bool {
	other = other.pruned()
	r.Revision, other.Revision = "", ""
	is, err := json.Marshal(r)
	wrote, werr := json.Marshal(other)
	return err == nil && werr == nil && bytes.Equal(is, wrote)
}

// GoneOn returns the record after the cluster went on without the volumes of those nodes,
// which are off it: they may not come back.
func (r Record) GoneOn(nodes []string) (on Record, changed bool) {
	r.Gone = maps.Clone(r.Gone)
	for _, n := range nodes {
		if g, gone := r.Gone[n]; gone && !g.Final {
			g.MayReturn, g.Final, changed = false, true, true
			r.Gone[n] = g
		}
	}
	return r, changed
}

// verified returns the record without what it says of volumes of node's that were not
// verified yet.
func (r Record) verified(node string) Record {
	r.Joining, r.Unverified = maps.Clone(r.Joining), maps.Clone(r.Unverified)
	delete(r.Joining, node)
	delete(r.Unverified, node)
	return r
}

// Joins returns the record with node as a member that is about to join on volume.
// Until it is verified, that volume holds nothing that could be lost, if no earlier
// one of the node's did, and an earlier one may come back.
func (r Record) Joins(node, volume string, now time.Time) Record {
	on, listed := r.Members[node]
	g, gone := r.Gone[node]
	first := listed && on != "" && r.Joining[node] == on || !listed && (!gone || g.Unjoined || g.Left)
	if listed && on != volume && !r.NeverVerified(node) {
		r = r.Without(node, "its node joined on another volume", now)
		g := r.Gone[node]
		g.MayReturn = true
		r.Gone[node] = g
	}
	r = r.with(node, volume)
	if r.Unverified == nil {
		r.Unverified = map[string]string{}
	}
	r.Unverified[node] = volume
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
	r.Versions = maps.Clone(r.Versions)
	delete(r.Versions, node)
	return r.verified(node)
}

// RemovedItself returns the record after node, whose volume came up blank, took itself off it.
func (r Record) RemovedItself(node, volume string, now time.Time) Record {
	first := r.Has(node, volume) && r.Joining[node] == volume
	earlier := slices.IndexFunc(r.Replaced, func(old Replaced) bool { return old.Node == node && old.MayReturn })
	if r.NeverVerified(node) && !first && earlier >= 0 { // it is as it was before that one joined
		back := r.Replaced[earlier].Gone
		r = r.Without(node, back.Why, now)
		r.Gone[node] = back
		r.Replaced = slices.Delete(slices.Clone(r.Replaced), earlier, earlier+1)
		return r
	}
	why := "its volume came up blank"
	if first {
		why = "its join came to nothing"
	}
	r = r.Without(node, why, now)
	g := r.Gone[node]
	g.Unjoined, g.MayReturn = first, !first
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

// WithQueues returns the record with what queues are that name no type, if it does not say yet.
func (r Record) WithQueues(queues string) Record {
	r.Queues = cmp.Or(r.Queues, queues)
	return r
}

// Runs returns the record with the version of RabbitMQ that node was verified with. Only
// a member has one.
func (r Record) Runs(node, version string) Record {
	if _, on := r.Members[node]; !on || version == "" || r.Versions[node] == version {
		return r
	}
	r.Versions = maps.Clone(r.Versions)
	if r.Versions == nil {
		r.Versions = map[string]string{}
	}
	r.Versions[node] = version
	return r
}
