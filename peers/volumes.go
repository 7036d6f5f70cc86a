package peers

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What the record says of a node's volume: whether it may start beside the cluster, come
// back, or is ruled out.

// Displaced reports whether that volume of node's was on record until another joined in
// its place, which was never verified: whoever has it may come back.
func (r Record) Displaced(node, volume string) bool {
	return r.NeverVerified(node) && slices.ContainsFunc(r.Replaced, func(old Replaced) bool {
		return old.Node == node && old.MayReturn && (old.Volume == volume || old.Volume == "")
	})
}

// Returns reports whether that volume of node's is off the record and may come back: a
// blank one removed it, and nobody has gone on without it; or an operator gave the cluster
// up, and members that run took that back. One whose name was not on record yet may be any.
func (r Record) Returns(node, volume string) bool {
	_, on := r.Members[node]
	g, gone := r.Gone[node]
	tookBack := len(r.Members) > 0 && !g.Left && !g.Final && strings.HasPrefix(g.Why, byOperator)
	return gone && !on && (g.MayReturn || tookBack) && (g.Volume == volume || g.Volume == "") && volume != ""
}

// NeverVerified reports whether the volume on record for node joined in its name and was
// never verified: whoever serves as node has more right to the name.
func (r Record) NeverVerified(node string) bool {
	on, listed := r.Members[node]
	return listed && on != "" && r.Unverified[node] == on
}

// HasLeft reports whether node left the cluster for good with that volume.
func (r Record) HasLeft(node, volume string) bool {
	g, gone := r.Gone[node]
	_, on := r.Members[node]
	return gone && !on && g.Left && g.Volume == volume && volume != ""
}

// NeverClaimed reports whether the record is another founding's than that claim of node's, and
// knows node as no member. What node was to found with, unless it was a cluster before, is
// nobody's then.
func (r Record) NeverClaimed(node, claim string) bool {
	_, on := r.Members[node]
	return r.State != Absent && r.Claim != claim && !on
}

// GaveUp returns when that volume of node's was given up: it left, was removed, or
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

// Refuses says why node's volume, which holds data of the cluster clusterID, must
// not be started beside this record, or "" when nothing on record speaks against
// it. No cluster id is data that never was verified: it may be of any cluster, and is refused
// where the name is another volume's. An empty volume id is data that never knew this program.
func (r Record) Refuses(node, volume, clusterID string) string {
	if r.State == Absent {
		return ""
	}
	on, member := r.Members[node]
	if clusterID == "" {
		if why, told := r.refusesUnverified(node, volume); told {
			return why
		}
		clusterID = r.ClusterID
	}
	if r.Is(clusterID) { // also where RabbitMQ was given the id of an earlier cluster
		clusterID = r.ClusterID
	}
	for _, p := range r.Previous {
		if p.ClusterID == clusterID && clusterID != r.ClusterID {
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
	case member && (on == "" || on == volume || volume == "" || r.Displaced(node, volume)):
		return ""
	case member:
		when := ""
		if i := slices.IndexFunc(r.Replaced, func(old Replaced) bool { return old.Node == node && old.Volume == volume }); i >= 0 {
			when = fmt.Sprintf(" on %s (%s)", r.Replaced[i].At.Format(time.RFC3339), r.Replaced[i].Why)
		}
		return fmt.Sprintf("this volume (%s) was replaced%s: %s is on record with volume %s in cluster %s, on record since %s", volume, when, node, on, r.describe(), r.Since.Format(time.RFC3339))
	case r.Returns(node, volume):
		return ""
	case gone && g.Forgotten && len(r.Members) > 0:
		return fmt.Sprintf("%s; the cluster goes on with %s, which do not know this volume any more", g.Told(node, "cluster "+clusterID), Some(r.Names()))
	case gone && g.Left:
		return fmt.Sprintf("%s left cluster %s for good on %s (%s), which went on with %s", node, clusterID, g.At.Format(time.RFC3339), g.Why, Some(r.Names()))
	case gone && len(r.Members) == 0:
		return fmt.Sprintf("%s; nobody is on record any more, and the next blank node founds another cluster", g.Told(node, "cluster "+clusterID))
	case gone:
		return fmt.Sprintf("%s; on record without it: %s (look there whether they carried on before you give this volume up)", g.Told(node, "cluster "+clusterID), Some(r.Names()))
	default:
		return fmt.Sprintf("%s is no longer on record as a member of cluster %s, on record since %s", node, r.describe(), r.Since.Format(time.RFC3339))
	}
}

// refusesUnverified is [Record.Refuses] of data that never was verified, where the record tells
// without knowing its cluster. What verification would stop, with each start anew, is refused.
func (r Record) refusesUnverified(node, volume string) (why string, told bool) {
	on, member := r.Members[node]
	g, gone := r.Gone[node]
	named := "which has no id yet"
	if volume != "" {
		named = volume
	}
	replaced := volume != "" && slices.ContainsFunc(r.Replaced, func(old Replaced) bool { return old.Node == node && old.Volume == volume })
	switch {
	case r.State != Formed, r.Returns(node, volume):
		return "", true
	case volume != "" && gone && g.Volume == volume, replaced && on != volume:
		return "", false // it is of this cluster, and known
	case member && on != "" && on != volume && !r.NeverVerified(node): // of two that never were, the one counts that RabbitMQ lets in
		return fmt.Sprintf("this volume (%s) was never verified as a member, and %s is on record with another one, %s, in cluster %s, on record since %s",
			named, node, on, r.describe(), r.Since.Format(time.RFC3339)), true
	case gone && !member && g.Volume != "" && !g.Another(node):
		return fmt.Sprintf("this volume (%s) was never verified as a member, and %s was on record with another one, %s: %s; on record without it: %s",
			named, node, g.Volume, g.Told(node, "cluster "+r.ClusterID), cmp.Or(strings.Join(r.Names(), ", "), "nobody")), true
	}
	return "", true
}
