package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"rmq-entrypoint/internal/consul"
	"rmq-entrypoint/peers"
)

// unstarted says why there is no RabbitMQ to look at, if there is none.
func unstarted(f Facts) []Result {
	s := f.Server
	switch {
	case s.Err != nil:
		return one(Unknown, "", "%v", s.Err)
	case s.Runtime == nil:
		return one(OK, "", "no server was ever started on this volume")
	case !s.Alive:
		return one(OK, "", "no server runs in this container; docker exec NODE rmq-entrypoint doctor looks at one that does")
	case s.waits():
		return one(Broken, "do what it waits for; docs/operations.md, When things fail, has the words", "the server is not started: it waits for %s", s.Runtime.Waiting)
	}
	return nil
}

// companionCheck judges the process that stays beside the server, by its own word.
func companionCheck(f Facts) []Result {
	if none := unstarted(f); none != nil {
		return none
	}
	r := f.Server.Report
	switch {
	case r.Err != nil:
		return one(Broken, "rmq-entrypoint healthcheck starts a lost one, and ends one that hangs", "it does not answer: %s", reason(r.Err))
	case f.Now.Sub(r.Value.Looked) > f.Config.TTL && !r.Value.Looked.IsZero():
		return one(Broken, "see to the disk; rmq-entrypoint healthcheck starts it again", "it looked at the node last at %s", r.Value.Looked.Format("15:04:05Z07:00"))
	case r.Value.Out:
		return one(Warning, "rabbitmq-upgrade revive, or a restart, brings the node back", "%s", r.Value.Reason)
	case !r.Value.Ready():
		return one(Broken, "docs/operations.md, When things fail, has these words", "the check is critical: %s", r.Value.Reason)
	case r.Value.Status != "passing":
		return one(Warning, "docs/operations.md, When things fail, has these words", "the check is a %s: %s", r.Value.Status, r.Value.Reason)
	}
	return one(OK, "", "the check passes since %s", r.Value.Since.Format("2006-01-02T15:04:05Z07:00"))
}

// broker judges RabbitMQ by its own word.
func broker(f Facts) []Result {
	if none := unstarted(f); none != nil {
		return none
	}
	v, vitals := f.Server.View, f.Server.Vitals
	switch {
	case f.Server.Runtime.Gated: // whatever it answers, it is to be something else yet
		return one(Unknown, "do what its companion waits for", "it has started, and waits behind the gate: what it will be is not decided")
	case v.Err != nil && strings.Contains(v.Err.Error(), "no answer"):
		return one(Unknown, "ask again; a node or a member that hangs, or a busy host, looks so", "%v", v.Err)
	case v.Err != nil:
		return one(Broken, "see its log; another cookie in the container than the server's looks so, too", "it does not say what it knows: %v", v.Err)
	}
	var all []Result
	add := func(is Finding, do, format string, args ...any) { all = append(all, one(is, do, format, args...)...) }
	if p := v.Value.Partitions; len(p) > 0 {
		add(Broken, "docs/operations.md, A partition that RabbitMQ missed", "partitioned from %s", strings.Join(p, ", "))
	}
	if run, of := len(v.Value.Running), len(v.Value.Members); 2*run <= of && (run == 0 || v.Value.Khepri || v.Value.Pauses) { // others go on, on Mnesia
		who := "none runs"
		if run > 0 {
			who = fmt.Sprintf("only %s run", peers.Some(v.Value.Running))
		}
		add(Broken, "start the others; where they run, members above says what is in the way", "no majority: of the members %s %s", peers.Some(v.Value.Members), who)
	} else if run < of {
		down := slices.DeleteFunc(slices.Clone(v.Value.Members), func(n string) bool { return slices.Contains(v.Value.Running, n) })
		add(Warning, "start them; one that is gone for good: rmq-entrypoint forget NODE", "of the members, down: %s", peers.Some(down))
	}
	if len(v.Value.Listeners) == 0 && slices.Contains(v.Value.Running, f.Config.Node) {
		add(Warning, "rabbitmq-upgrade revive, if it is drained", "it takes no AMQP connections")
	}
	if vitals.Err != nil {
		return append(all, Result{Is: Unknown, Says: fmt.Sprintf("alarms, versions and flags: %v", vitals.Err)})
	}
	x := vitals.Value
	if len(x.Alarms) > 0 {
		add(Broken, "RabbitMQ's documentation, Alarms: make room, or have consumers catch up", "publishers are blocked: %s", strings.Join(x.Alarms, ", "))
	}
	if versions := slices.Compact(slices.Sorted(maps.Values(x.Versions))); len(versions) > 1 {
		add(Warning, "go on with the upgrade, node by node", "members run %s", strings.Join(versions, " and "))
	}
	if x.Disabled > 0 {
		add(Warning, "when all members run the new version: rabbitmqctl enable_feature_flag all", "%d stable feature flags are disabled", x.Disabled)
	}
	if len(x.Critical) > 0 {
		add(Warning, "do not stop it now; rmq-entrypoint drain refuses to, too", "what needs this node: %s", peers.SomeWith(x.Critical, "; "))
	}
	if x.Named == "false" && len(v.Value.Members) > 1 {
		add(Warning, "rabbitmqctl set_cluster_name "+f.Config.Service+", or another name, on any member", "the cluster has no name: each node calls it by its own, and for Prometheus it is %d clusters", len(v.Value.Members))
	}
	if who, leads, share := crowded(x.Leads); who != "" {
		add(Warning, "rabbitmq-queues rebalance all, on any member, when clients can do with a short pause", "%s leads %d queues that others could, and its share is %d", who, leads, share)
	}
	if len(all) == 0 {
		return one(OK, "", "runs %s with %s; no alarm, no partition", x.Versions[f.Config.Node], peers.Some(v.Value.Running))
	}
	return all
}

// crowded returns who leads far more queues than the members do on the average, if somebody does: at
// least twice as many, and ten more. It is so after each has been restarted, and after a join.
func crowded(leads map[string]int) (who string, most, share int) {
	all := 0
	for _, n := range slices.Sorted(maps.Keys(leads)) {
		if all += leads[n]; leads[n] > most {
			who, most = n, leads[n]
		}
	}
	if share = all / max(len(leads), 1); most < 2*share || most < share+10 || len(leads) < 2 {
		return "", 0, 0
	}
	return who, most, share
}

// production lists what is well for trying things out, and not where it matters. None of it breaks
// the node.
func production(f Facts) (all []Result) {
	add := func(do, format string, args ...any) { all = append(all, one(Warning, do, format, args...)...) }
	if s := f.Server; s.Alive && s.Vitals.Known() {
		x := s.Vitals.Value
		if x.Guest == "true" {
			add("make users of your own, and delete guest (RABBITMQ_DEFAULT_USER, _PASS at the founding)", "guest gets in with the password that everybody knows")
		}
		if x.DiskLimit > 0 && x.DiskLimit < littleFree {
			add("disk_free_limit.absolute = 2GB in rabbitmq.conf, or more", "disk_free_limit is %s: a full disk comes before the alarm", size(x.DiskLimit))
		}
		if x.Total > 0 && x.Memory*5 > x.Total*4 {
			add("vm_memory_high_watermark.relative = 0.6 in rabbitmq.conf, or less", "the memory limit is %s of %s", size(x.Memory), size(x.Total))
		}
		if len(s.View.Value.Members) == 2 || len(s.View.Value.Members) == 1 {
			add("run three", "a cluster of %d does not survive the loss of a node", len(s.View.Value.Members))
		}
	}
	if v := f.Server.View; f.Server.Alive && v.Known() && len(v.Value.Listeners) > 0 && !slices.ContainsFunc(v.Value.Listeners, func(l peers.Listener) bool { return l.TLS }) {
		add("listeners.ssl.default and ssl_options in rabbitmq.conf; compose/secure.yml has an example", "clients connect without TLS")
	}
	if slices.ContainsFunc(f.Agents, func(e consul.Examined) bool { return e.Err == nil && !e.ACL }) {
		add("turn ACLs on (docs/settings.md, Rights in Consul): who writes the record owns the cluster", "Consul obeys whoever reaches it: ACLs are off")
	}
	if len(all) == 0 {
		return one(OK, "", "nothing seen that should not be so")
	}
	return all
}
