package companion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/rabbitmq"
	"rmq-entrypoint/internal/statedir"
	"rmq-entrypoint/peers"
)

// verify earns the right to pass: the record is formed, RabbitMQ's cluster id is
// the record's, and this node is in it with this volume. Then record, marker and
// passing, in that order. It returns what is still missing, or "".
func (c *Companion) verify(ctx context.Context, client *api.Client, r peers.Record, index uint64, others []peers.Peer) string {
	why := c.prove(ctx, client, r, index, others)
	for range 3 { // nodes that join at the same time write it at the same time
		if why != changedFirst {
			break
		}
		var err error
		if r, index, err = peers.ReadRecord(ctx, client, c.rt.Config.RecordKey()); err != nil {
			return err.Error()
		}
		why = c.prove(ctx, client, r, index, others)
	}
	if why != "" {
		c.story("not verified", why)
		return why
	}
	was := c.rt.Role
	if old, err := statedir.Of(c.rt.Config).Marker(); was == statedir.Joining || err == nil && old != nil && old.Regrow {
		c.regrows = 10
	}
	if err := c.mark(); err != nil {
		return fmt.Sprintf("the marker cannot be written: %v", err)
	}
	c.rt.Role, c.rt.Cluster, c.rt.Claim = statedir.Member, c.view.ClusterID, ""
	if c.rt.Verified.IsZero() {
		c.rt.Verified = time.Now()
	}
	if err := c.rt.Write(); err != nil {
		return fmt.Sprintf("the runtime file cannot be written: %v", err)
	}
	if c.lock != nil {
		if err := c.lock.Release(ctx); err != nil {
			c.log.Warn("cannot release the lock, its TTL will", "err", err)
		}
		c.lock = nil
	}
	if c.entered != c.view.ClusterID {
		// Over the entry there is, which keeps its status: peers find a member by its
		// cluster id, and an entry of before it was known, or of another companion's,
		// may lack it.
		if err := c.locate(ctx); err != nil { // it may be the first word that Consul gets of this start
			return err.Error()
		}
		reg := c.reg
		reg.ClusterID, reg.Blank = c.view.ClusterID, false
		if err := peers.Enter(ctx, client, reg, "verified"); err != nil {
			return err.Error()
		}
		c.reg, c.entered = reg, reg.ClusterID
	}
	c.verified = true
	c.log.Info("verified: this node is a member and serves", "was", was, "cluster", c.view.ClusterID, "members", strings.Join(c.view.Members, ","))
	return ""
}

// mark writes the marker: that this volume is a member's, and until when it
// served.
func (c *Companion) mark() error {
	m := statedir.Marker{ClusterID: c.view.ClusterID, Volume: c.rt.Volume, Members: c.view.Members, At: time.Now().UTC(), Regrow: c.regrows > 0, RabbitMQ: c.rt.Version, Erlang: c.rt.Erlang}
	if err := statedir.Of(c.rt.Config).WriteMarker(m); err != nil {
		return err
	}
	c.marked = m
	return nil
}

// prove checks the node against the record by its role, and brings the record
// up to what is true. A write that somebody else was faster with is tried again
// with the next beat.
func (c *Companion) prove(ctx context.Context, client *api.Client, r peers.Record, index uint64, others []peers.Peer) string {
	node, now, v := c.rt.Config.Node, time.Now(), c.view
	ours := r.State == peers.Formed && r.ClusterID == v.ClusterID
	single := len(v.Members) == 1
	switch {
	case !slices.Contains(v.Running, node): // Khepri answers while it still waits for its majority
		return "RabbitMQ does not list this node as running"
	case c.rt.Role == statedir.Seeding && r.State == peers.Forming && r.Seed == node && r.Claim == c.rt.Claim:
		// Members of a cluster whose record Consul lost get a beat to say so first, and
		// what it takes them to ask RabbitMQ who they are.
		if left := c.beatEvery() + 3*time.Second - time.Since(c.born); left > 0 {
			return fmt.Sprintf("giving members of an earlier cluster %s more to speak", left.Round(time.Second))
		}
		if why := c.notOnRecord(ctx, r, others); why != "" {
			return why
		}
		if why := c.mirror(ctx); why != "" { // announced, it is the user's to change
			return why
		}
		f := r.Founded(v.ClusterID, now)
		for _, m := range v.Members {
			if _, on := f.Members[m]; !on {
				f = f.With(m, "")
			}
		}
		return c.publish(ctx, client, f, index, "the cluster is founded")
	case c.rt.Role == statedir.Seeding && !ours:
		if single {
			c.standDown(ctx, fmt.Sprintf("this node's claim to found the cluster was overtaken: the record is %s", r.String()))
			return "overtaken"
		}
		return split(v, r)
	case c.rt.Role == statedir.Joining && single && !ours:
		return c.joinExplicitly(ctx, r, others)
	case c.rt.Role == statedir.Joining && r.State == peers.Forming:
		return fmt.Sprintf("%s has not announced the cluster yet", r.Seed)
	case r.State == peers.Absent:
		return c.publish(ctx, client, peers.Published(v, node, c.rt.Volume, now), index, "the record was gone: published again")
	case r.State == peers.Forming && c.rt.Role == statedir.Member: // with a marker, or adopted: both are data
		return c.publish(ctx, client, peers.Published(v, node, c.rt.Volume, now), index, "another node was founding a cluster beside this one: overruled")
	case r.State == peers.Forming:
		return fmt.Sprintf("%s is founding a cluster, and this volume never was verified as a member", r.Seed)
	case !ours:
		return split(v, r)
	}
	on, listed := r.Members[node]
	_, gone := r.Gone[node]
	switch {
	case listed && on == c.rt.Volume && on != "" && (r.Joining[node] != "" || r.NeverVerified(node)):
		return c.publish(ctx, client, r.With(node, on), index, "a member now")
	case listed && on == c.rt.Volume && on != "" && r.Versions[node] != c.rt.Version:
		return c.publish(ctx, client, r, index, "on record with RabbitMQ "+c.rt.Version)
	case listed && on == c.rt.Volume && on != "":
		return ""
	case listed && on == "", !listed && !gone:
		return c.publish(ctx, client, r.With(node, c.rt.Volume), index, "on record with this volume")
	}
	if r.Returns(node, c.rt.Volume) { // Consul was away when it started
		return c.publish(ctx, client, r.With(node, c.rt.Volume), index, "this node's volume again: "+r.Gone[node].Told(node, "the record"))
	}
	// Of two that never were verified, the one counts that RabbitMQ lets in.
	if r.Displaced(node, c.rt.Volume) || c.rt.Role != statedir.Member && r.NeverVerified(node) {
		return c.takeBack(ctx, client, r, index)
	}
	if back, why := c.putBack(ctx, client, r, index); back {
		return why
	}
	why := r.Refuses(node, c.rt.Volume, v.ClusterID)
	if why != "" {
		why += fmt.Sprintf("; if this volume is the right one, delete the key %s in Consul while a member runs: it is published anew, and every node fills in its volume", c.rt.Config.RecordKey())
	}
	// A node that has served since its start is in the cluster, whatever an earlier day's
	// record says, to which Consul may have been put back. That another one took its place
	// since then no such record can say.
	if g := r.Gone[node]; !g.Another(node) && (c.rt.Verified.IsZero() || r.GaveUp(node, c.rt.Volume).After(c.rt.Verified)) {
		c.standDown(ctx, why)
	}
	return why
}

// takeBack puts this node's volume on record again in the place of one that joined under
// its name and never was verified, as a second container of that name does while it cannot
// see this one. Only where others see this node run, or nobody else is a member: one that
// is cut off cannot know, and is not stopped either.
func (c *Companion) takeBack(ctx context.Context, client *api.Client, r peers.Record, index uint64) string {
	node := c.rt.Config.Node
	others := slices.DeleteFunc(r.Names(), func(n string) bool { return n == node })
	if len(others) > 0 && !slices.ContainsFunc(others, func(n string) bool { return slices.Contains(c.view.Running, n) }) {
		return fmt.Sprintf("another container joined as %s with volume %s, which never was verified, and no other member is seen running by this one, whose volume is %s", node, r.Members[node], c.rt.Volume)
	}
	c.log.Warn("another container joined under this node's name with a volume that never was verified: taking the name back; give it a host name of its own", "its_volume", r.Members[node], "volume", c.rt.Volume)
	return c.publish(ctx, client, r.With(node, c.rt.Volume), index, "this node's volume again")
}

// notOnRecord says which registered node may have data of an earlier cluster, that it
// is about to publish: none is founded beside it. Joiners say that they began blank.
func (c *Companion) notOnRecord(ctx context.Context, r peers.Record, others []peers.Peer) string {
	others = slices.DeleteFunc(slices.Clone(others), func(p peers.Peer) bool {
		_, on := r.Members[p.Node]
		return on || p.Blank || slices.Contains(c.view.Members, p.Node)
	})
	if len(others) == 0 {
		return ""
	}
	for _, p := range others {
		if !p.Alive() {
			_, err := c.broker.View(ctx, p.Node)
			p.Down = err != nil && c.isDown(ctx, p)
		}
		if p.MayLive() {
			return fmt.Sprintf("announcing no cluster while a node that is not in it is registered, which may have data of an earlier one: %s; %s", p.Describe(), p.WayOut())
		}
	}
	return ""
}

// watch keeps the record true while the node serves, and names what must not be.
func (c *Companion) watch(ctx context.Context, client *api.Client, r peers.Record, index uint64) string {
	node, v := c.rt.Config.Node, c.view
	switch {
	case r.State == peers.Absent, r.State == peers.Forming:
		c.verified = false // publishing it again is verifying again
		return "the cluster record is gone"
	case r.ClusterID != v.ClusterID:
		return split(v, r)
	case c.takenOff(r):
		if _, why := c.putBack(ctx, client, r, index); why != "" && why != changedFirst {
			return why
		}
		return "" // it has served all the while
	case r.Members[node] != c.rt.Volume:
		c.verified = false
		return "the record names another volume for this node"
	}
	for _, m := range v.Members {
		_, on := r.Members[m]
		if _, gone := r.Gone[m]; !on && !gone && slices.Contains(v.Running, m) {
			c.publish(ctx, client, r.With(m, ""), index, "a running member was not on record: added "+m)
			break
		}
		if g, gone := r.Gone[m]; !on && gone && !g.Left && slices.Contains(v.Running, m) && time.Since(g.At) > 2*c.rt.Config.TTL {
			if g.MayReturn { // it will say itself on which volume
				c.publish(ctx, client, r.With(m, ""), index, "a running member, which a blank volume under its name struck: added "+m)
				break
			}
			return fmt.Sprintf("%s runs in this cluster, but %s", m, strings.TrimPrefix(g.Told(m, "the record"), m+" "))
		}
	}
	return ""
}

// apart names what only this node's neighbours can see: a cluster in which too few
// run to decide anything, or members that serve without this one.
func (c *Companion) apart(r peers.Record, others []peers.Peer) string {
	v := c.view
	// A newcomer votes before it is listed as running, and has no cluster id before
	// it is verified: a seed is not to flap while the second node joins.
	up := len(v.Running)
	for _, p := range others {
		if p.Beating && p.ClusterID == "" && slices.Contains(v.Members, p.Node) && !slices.Contains(v.Running, p.Node) {
			up++
		}
	}
	if v.Khepri && 2*up <= len(v.Members) {
		return fmt.Sprintf("no majority: of the members %s only %s run", strings.Join(v.Members, ", "), strings.Join(v.Running, ", "))
	}
	was := c.apartFrom
	c.apartFrom = map[string]time.Time{}
	var strangers []string
	for _, p := range others {
		_, on := r.Members[p.Node]
		if !on || !p.Passing || p.ClusterID != r.ClusterID || slices.Contains(v.Running, p.Node) || time.Since(c.viewAt) >= viewEvery {
			continue
		}
		c.passing = "" // look again with the next beat
		since, seen := was[p.Node]
		if !seen {
			since = time.Now()
		}
		c.apartFrom[p.Node] = since
		if time.Since(since) > c.rt.Config.TTL+c.beatEvery() { // the check of one that died would have lapsed
			strangers = append(strangers, p.Node)
		}
	}
	if len(strangers) > 0 && 2*len(v.Running) <= len(r.Members) {
		return fmt.Sprintf("%s serve, but this node does not see them run", strings.Join(strangers, ", "))
	}
	return ""
}

// leaderless says that the members cannot decide anything, though as many are up as it
// takes: one that joins may not have its vote. An election shows at one look alone.
func (c *Companion) leaderless(ctx context.Context) string {
	v, before := c.view, c.unled
	c.unled = false
	if !v.Khepri || 2*len(v.Running) > len(v.Members) {
		return ""
	}
	ctx, done := context.WithTimeout(ctx, c.rt.Config.TTL/5)
	defer done()
	led, err := c.broker.HasLeader(ctx, c.rt.Config.Node)
	if c.unled = err == nil && !led; !c.unled || !before {
		return ""
	}
	return fmt.Sprintf("no leader: of the members %s only %s run", strings.Join(v.Members, ", "), strings.Join(v.Running, ", "))
}

// joinExplicitly takes a joiner that came up alone by accident, as one whose
// clock is behind does, into the cluster: only while it is pending, alone and
// without a queue. Otherwise it is a split, which nothing may touch.
func (c *Companion) joinExplicitly(ctx context.Context, r peers.Record, others []peers.Peer) string {
	if r.State != peers.Formed {
		if time.Now().After(c.joinedBy) { // nor will there be one, if all that is left waits for this node
			c.standDown(ctx, "came up alone, and no cluster was formed to be joined within the join timeout (--join-timeout, RMQ_JOIN_TIMEOUT)")
		}
		return "came up alone, and there is no formed cluster to join yet"
	}
	if on := r.Members[c.rt.Config.Node]; on != "" && on != c.rt.Volume {
		c.standDown(ctx, fmt.Sprintf("came up alone, and the record names volume %s for this node, whose volume is %s: nothing is done in its name", on, c.rt.Volume))
		return "alone"
	}
	queues, err := c.broker.Queues(ctx)
	if err != nil {
		return fmt.Sprintf("came up alone, and its queues cannot be counted: %v", err)
	}
	if queues > 0 {
		return fmt.Sprintf("SPLIT: came up alone beside cluster %s, and holds %d queues: move what is in them, then empty this volume", r.ClusterID, queues)
	}
	for _, p := range others {
		if !p.Passing || p.ClusterID != r.ClusterID {
			continue
		}
		v, err := c.broker.View(ctx, p.Node)
		if err != nil || v.ClusterID != r.ClusterID || !slices.Contains(v.Running, p.Node) {
			continue
		}
		c.log.Warn("came up alone by accident (is this host's clock behind?): joining explicitly", "peer", p.Node)
		if err := statedir.Of(c.rt.Config).WritePending(statedir.Pending{Role: statedir.Joining, Claim: c.rt.Claim, Volume: c.rt.Volume}); err != nil {
			return err.Error()
		}
		if slices.Contains(v.Members, c.rt.Config.Node) {
			if err := c.broker.Forget(ctx, p.Node, c.rt.Config.Node); err != nil {
				c.log.Warn("the cluster does not forget this node's earlier volume", "err", err)
			}
		}
		// Not cut short by an event: stop_app and start_app inside say STOPPING and READY.
		if err := c.broker.Join(context.WithoutCancel(ctx), p.Node); err != nil {
			return fmt.Sprintf("came up alone and cannot join %s: %v", p.Node, err)
		}
		return "joined " + p.Node + " explicitly"
	}
	if ctx.Err() != nil { // cut short by an event: nobody was asked
		return "came up alone"
	}
	c.standDown(ctx, "came up alone, and no member answers to be joined")
	return "alone"
}

// standDown stops a server that must not go on, so that its restart decides
// afresh. What a pending node alone in its cluster founded counts as blank then.
func (c *Companion) standDown(ctx context.Context, why string) {
	c.log.Error("stopping the server: its restart decides afresh", "why", why)
	if c.rt.Role != statedir.Member && len(c.view.Members) == 1 {
		if err := statedir.Of(c.rt.Config).WritePending(statedir.Pending{Role: statedir.Alone, Claim: c.rt.Claim, Volume: c.rt.Volume}); err != nil {
			c.log.Error("cannot mark the volume, so the server is left running", "err", err)
			return
		}
	}
	c.halt(ctx)
}

// giveUp stops a joiner that has not got ready within the join timeout, or never
// will. Timeouts never apply to a node with data.
func (c *Companion) giveUp(ctx context.Context) {
	if c.rt.Role != statedir.Joining {
		return
	}
	why := ""
	switch {
	case time.Now().After(c.joinedBy):
		why = "not ready within the join timeout (--join-timeout, RMQ_JOIN_TIMEOUT)"
	case c.votesInVain(ctx):
		why = "the cluster counts this node in since a join that came to nothing, and has no leader without its vote, which it cannot give any more"
	default:
		return
	}
	c.log.Error("stopping the server, its restart decides afresh: "+why, "last_word", c.booted)
	c.joinedBy, c.stuckAt, c.stuck = time.Now().Add(c.rt.Config.JoinTimeout), time.Time{}, 0
	if p, err := statedir.Of(c.rt.Config).Pending(); err == nil && p != nil && p.Role == statedir.Joining {
		p.Failed = true
		if err := statedir.Of(c.rt.Config).WritePending(*p); err != nil {
			c.log.Error("cannot mark the volume", "err", err)
		}
	}
	c.halt(ctx)
}

// joinUsually is longer than a join takes. A joiner gives up when it was stuck for
// stuckFor at least and at so many looks.
const (
	joinUsually = 20 * time.Second
	stuckFor    = 20 * time.Second
	stuckLooks  = 4
)

// votesInVain reports whether this node's join can never end. A joiner that is killed
// between being counted in and having its part of the log on disk comes back with a
// vote that the cluster does not know, and knows nobody itself; where that was the
// majority, no join is accepted any more (measured on 4.3.6, one member and the
// joiner). Killed a moment later it has what it takes to vote, and its next start
// heals the cluster. What cannot be seen counts for neither.
func (c *Companion) votesInVain(ctx context.Context) bool {
	if data, err := statedir.HasDatabase(c.rt.Config.Data); err != nil || data || time.Since(c.born) < joinUsually {
		return false
	}
	ctx, done := context.WithTimeout(ctx, c.rt.Config.TTL/2) // no beat is to cost the TTL
	defer done()
	node := c.rt.Config.Node
	client, err := c.consul.Client(ctx)
	if err != nil {
		return false
	}
	others, _, err := peers.Catalog(ctx, client, c.rt.Config.Service, node)
	if err != nil {
		return false
	}
	for _, p := range others {
		if !p.Beating {
			continue
		}
		v, err := c.broker.View(ctx, p.Node)
		if err != nil {
			continue
		}
		stuck := v.Khepri && slices.Contains(v.Members, node) && !v.DecidesWithout(node)
		if stuck {
			led, err := c.broker.HasLeader(ctx, p.Node)
			if err != nil {
				return false
			}
			stuck = !led
		}
		if stuck {
			me, err := c.broker.View(ctx, node)
			if err != nil && !errors.Is(err, rabbitmq.ErrNoClusterID) { // not yet, or between two attempts
				return false
			}
			stuck = len(me.Members) == 1
		}
		if !stuck {
			c.stuckAt, c.stuck = time.Time{}, 0
			return false
		}
		if c.stuck++; c.stuckAt.IsZero() {
			c.stuckAt = time.Now()
		}
		return c.stuck >= stuckLooks && time.Since(c.stuckAt) > stuckFor
	}
	return false
}

func (c *Companion) halt(ctx context.Context) {
	if err := c.broker.Halt(context.WithoutCancel(ctx), c.rt.PID); err != nil { // not by SIGTERM only because of an event
		c.log.Error("the server does not stop", "err", err)
	}
}

// guardMinority makes a node of three and more pause in a minority where Mnesia
// decides, unless the user said otherwise: the default left a lasting partition.
func (c *Companion) guardMinority(ctx context.Context) {
	want := c.size >= 3
	if c.rt.UserPartitionHandling || c.view.Khepri || want == c.minority {
		return
	}
	if err := c.broker.PauseMinority(ctx, want); err != nil {
		c.log.Warn("cannot set cluster_partition_handling", "err", err)
		return
	}
	c.minority = want
	c.log.Info("cluster_partition_handling set", "pause_minority", want, "members", c.size)
}

// changedFirst is why publish did not write.
const changedFirst = "another node changed the record first, looking again"

// publish writes the record and returns "" when it stands.
func (c *Companion) publish(ctx context.Context, client *api.Client, r peers.Record, index uint64, what string) string {
	r = r.Runs(c.rt.Config.Node, c.rt.Version)
	ok, err := peers.WriteRecord(ctx, client, c.rt.Config.RecordKey(), r, index, "", "")
	switch {
	case err != nil:
		return err.Error()
	case !ok:
		return changedFirst
	}
	c.log.Info("record written", "what", what, "cluster", r.ClusterID, "members", strings.Join(r.Names(), ","))
	return ""
}

func split(v peers.View, r peers.Record) string {
	return fmt.Sprintf("SPLIT: this node is in cluster %s with %s, but the record is %s; nothing is touched: decide which to keep", v.ClusterID, strings.Join(v.Members, ", "), r.String())
}
