package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/statedir"
)

// What is judged of this container alone. Errors of a start say the way out themselves.

// settings tells where the settings come from, and what a start would refuse or warn of.
func settings(f Facts) []Result {
	s := f.Host.Settings
	if s.Refused != nil {
		return one(Broken, "", "%v", s.Refused)
	}
	all := one(OK, "", "%s", sources(f.Config))
	for _, w := range s.Warnings {
		all = append(all, Result{Is: Warning, Says: w})
	}
	if s.Differs != "" {
		all = append(all, Result{Is: Warning, Says: "this command's are not those of the server that runs here: " + s.Differs,
			Do: "give what differs as variables of the container, which its commands see, too"})
	}
	return all
}

// sources names the settings that were given and by what; never their values, of which one might
// be a secret.
func sources(cfg config.Config) string {
	var by []string
	for _, name := range slices.Sorted(maps.Keys(cfg.Flags)) {
		by = append(by, "--"+name)
	}
	for _, row := range config.Settings(new(config.Config)) {
		if _, flag := cfg.Flags[row.Flag]; cfg.Variables[row.Flag] != "" && !flag {
			by = append(by, strings.Join(row.Env, " or "))
		}
	}
	if len(by) == 0 {
		return "all by default"
	}
	return "by " + strings.Join(by, ", ") + "; the others by default"
}

// What of a disk that is free is little, and what is nothing: RabbitMQ's own limit, in bytes.
const (
	littleFree = 1 << 30
	leastFree  = 50_000_000
)

// anonymous is where Docker keeps a volume that nobody named.
var anonymous = regexp.MustCompile(`/volumes/[0-9a-f]{64}/_data$`)

// volume tells which one it is, and what speaks against a start on it.
func volume(f Facts) []Result {
	v, cfg := f.Host.Volume, f.Config
	switch {
	case f.Host.Hangs:
		return one(Broken, "see to the disk that "+cfg.Data+" is on", "reading it does not come to an end")
	case v.Mount != nil:
		return one(Broken, "", "%v", v.Mount)
	case v.Directories != nil && f.Host.AsRoot:
		return one(Warning, "nothing, if a node is started so: it gives the volume to rabbitmq", "not rabbitmq's yet: %s", permission(v.Directories))
	case v.Directories != nil:
		return one(Broken, "", "%v", v.Directories)
	case v.State.Err != nil:
		return one(Broken, "", "%v", v.State.Err)
	case v.Single != nil:
		return one(Broken, "", "%v", v.Single)
	case v.Jump != "":
		return one(Broken, "", "%s", v.Jump)
	case f.Mix != "":
		return one(Broken, "", "%s", f.Mix)
	case v.On.Kind == "overlay" || v.On.Kind == "tmpfs":
		return one(Broken, "mount a volume at "+cfg.Home, "no volume is mounted: %s is on %s (%s), and is lost with the container", cfg.Data, v.On.At, v.On.Kind)
	case v.Size > 0 && v.Free < leastFree:
		return one(Broken, "make room on what is mounted at "+v.On.At, "%s free of %s: RabbitMQ blocks publishers", size(v.Free), size(v.Size))
	}
	is := "blank"
	switch s := v.State.Value; {
	case s.Role == statedir.Lone:
		is = fmt.Sprintf("volume %s, a lone broker's (--single)", s.Volume)
	case s.Cluster != "":
		is = fmt.Sprintf("volume %s, %s of cluster %s", s.Volume, s.Role, s.Cluster)
	case s.Role != "":
		is = fmt.Sprintf("%s, never verified", s.Role)
	case s.Lost != "":
		is = fmt.Sprintf("the data of cluster %s are gone", s.Lost)
	}
	all := one(OK, "", "%s, on %s (%s), %s free", is, v.On.At, v.On.Kind, size(v.Free))
	if v.Size > 0 && v.Free < littleFree {
		all[0].Is, all[0].Do = Warning, "make room on what is mounted at "+v.On.At
	}
	if anonymous.MatchString(v.On.Root) {
		all = append(all, Result{Is: Warning, Says: "the volume has no name: docker run made it for this container, and another container gets another one",
			Do: "name one: docker run -v NAME:" + cfg.Home})
	}
	if r := v.Refused; r != nil && !f.Server.Alive { // what for is found below, if it is so still
		all = append(all, Result{Is: Warning, Says: fmt.Sprintf("the last start was refused, on %s: %s; starts that ended so: %d", r.At.Format(time.RFC3339), r.Why, r.Again+1),
			Do: "its log says what to do (docs/operations.md, When things fail)"})
	}
	if len(v.Others) > 0 && v.State.Value.Role == "" {
		all = append(all, Result{Is: Warning, Says: fmt.Sprintf("blank, and beside it are the data of %s", strings.Join(v.Others, ", ")),
			Do: "if they are this node's, give the container that node's host name (or RABBITMQ_NODENAME)"})
	}
	return all
}

// permission is the beginning of an error: which directory, and what is the matter with it.
func permission(err error) string {
	text, _, _ := strings.Cut(err.Error(), ": give it to")
	return text
}

func size(bytes uint64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GiB", bytes>>30)
	case bytes >= 10<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d KiB", bytes>>10)
}

// cookie tells nothing of it.
func cookie(f Facts) []Result {
	c := f.Host.Cookie
	switch {
	case f.Host.Hangs:
		return one(Unknown, "", "not looked at")
	case errors.Is(c.Err, fs.ErrPermission) && f.Host.AsRoot:
		return one(Unknown, "", "what is on the volume is not rabbitmq's to read before a start as root gives it to him")
	case c.Err != nil:
		return one(Broken, "", "%v", c.Err)
	case c.Value != "":
		return one(Warning, "stop all nodes, remove .erlang.cookie on each, and set RABBITMQ_ERLANG_COOKIE to what openssl rand -hex 24 makes", "it can be guessed: %s", c.Value)
	}
	return one(OK, "", "is set, and no other user can read it")
}

// name tells whether this host finds itself by its node's name, and its address back.
func name(f Facts) []Result {
	n, node := f.Host.Name, f.Config.Node
	_, host, _ := strings.Cut(node, "@")
	short, _, _ := strings.Cut(host, ".")
	switch {
	case f.Host.Hangs:
		return one(Unknown, "", "not looked at")
	case n.Err != nil && f.Config.Hosts == "consul":
		return one(OK, "", "%s is not known to name servers, and found by Consul (--hosts consul)", host)
	case n.Err != nil:
		return one(Broken, "", "%v", n.Err)
	case config.LoopbackName(node):
		is := Warning // alone it may be called so
		if len(f.Members) > 0 {
			is = Broken
		}
		return one(is, "give the container a host name (hostname: in Compose, docker run --hostname)", "%s: every host takes that name for itself", node)
	case len(n.Value.Addresses) > 0 && !n.Value.Own:
		return one(Broken, "set the container's host name to its node's, or mend DNS and /etc/hosts", "%s is %s, which is none of this host's addresses", host, strings.Join(n.Value.Addresses, ", "))
	case len(n.Value.Back) > 0 && !slices.ContainsFunc(n.Value.Back, func(b string) bool {
		first, _, _ := strings.Cut(b, ".")
		return strings.EqualFold(first, short)
	}):
		return one(Warning, "mend DNS or /etc/hosts: the address may be another host's, too", "%s is %s, and that is %s", host, n.Value.Addresses[0], strings.Join(n.Value.Back, ", "))
	}
	return one(OK, "", "%s is %s, which is this host's", host, strings.Join(n.Value.Addresses, ", "))
}

// ports judges this node's own: open while the server runs, free while none does.
func ports(f Facts) []Result {
	var open, shut []string
	rt := f.Server.Runtime
	waits := f.Server.Alive && rt != nil && (rt.Waits() || rt.Gated)
	for _, p := range f.Own {
		if p.Err == nil {
			open = append(open, p.What+" "+p.At)
		} else {
			shut = append(shut, p.shut())
		}
	}
	switch {
	case f.Server.Err != nil:
		return one(Unknown, "", "whether a server runs here cannot be read, so not who has %s: %v", cmp.Or(strings.Join(open, ", "), "its ports"), f.Server.Err)
	case waits:
		return one(OK, "", "open: %s; the others open once the node has what it waits for", cmp.Or(strings.Join(open, ", "), "none"))
	case f.Server.Alive && len(shut) > 0 && f.Server.Report.Known() && f.Server.Report.Value.Ready():
		return one(Warning, "if listeners are elsewhere, RMQ_HTTP, RABBITMQ_NODE_PORT or rabbitmq.conf say where", "not on this host's loopback: %s", strings.Join(shut, "; "))
	case f.Server.Alive && len(shut) > 0 && f.Server.View.Known() && !slices.Contains(f.Server.View.Value.Running, f.Config.Node):
		return one(Warning, "what it waits for is below", "RabbitMQ has not come up: %s", strings.Join(shut, "; "))
	case f.Server.Alive && len(shut) > 0:
		return one(Broken, "RabbitMQ boots still, waits, or has stopped: companion and rabbitmq below, and its log, say which", "nobody answers: %s", strings.Join(shut, "; "))
	case f.Server.Alive:
		return one(OK, "", "%s", strings.Join(open, ", "))
	case len(open) > 0:
		return one(Broken, "stop what listens there, or give RabbitMQ other ports (RABBITMQ_NODE_PORT, RABBITMQ_DIST_PORT, RMQ_HTTP)", "no server runs here, and taken is: %s", strings.Join(open, ", "))
	}
	return one(OK, "", "free, and no server runs in this container")
}

// shut says which port it is, and why it is shut.
func (p Port) shut() string {
	return strings.TrimSpace(p.What+" "+p.At) + ": " + reason(p.Err)
}

// reason is why a connection failed, without what is said of it anyway.
func reason(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &op) && op.Timeout(), strings.Contains(err.Error(), "deadline"):
		return "no answer"
	}
	return err.Error()
}
