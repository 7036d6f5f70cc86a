package sim

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Run is the program's rabbitmqctl: ["rabbitmqctl", "-q", "-n", node, command, …].
func (p *Process) Run(ctx context.Context, argv ...string) (string, error) {
	w := p.Box.Node.w
	node, argv := argv[3], argv[4:]
	what := argv[0]
	if what == "eval" {
		what = strings.Fields(argv[1])[0]
	}
	if !p.await(ctx, what) {
		return "", errors.New("the process is dead")
	}
	w.sleep2(ctx, p.ctx, time.Duration((0.2+0.4*w.draw(p.Name(), "ctl"))*1e9))
	if p.ctx.Err() != nil || ctx.Err() != nil {
		return "", errors.New("no answer")
	}
	w.mu.Lock()
	out, err := w.ctl(p.Box, node, argv)
	w.mu.Unlock()
	if what == "start_app" && err == nil {
		for range 600 { // it returns when the application runs
			w.mu.Lock()
			up := p.Box.Node.runs()
			w.mu.Unlock()
			if up || p.ctx.Err() != nil || ctx.Err() != nil {
				break
			}
			w.sleep2(ctx, p.ctx, 250*time.Millisecond)
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	if p.chance("die "+what, w.rates.crash) {
		w.mu.Lock()
		w.tell(p.Box.Node.Who, fmt.Sprintf("** killed after %s of the %s", what, p.name))
		p.Box.die()
		w.mu.Unlock()
	}
	if p.ctx.Err() != nil {
		return "", errors.New("the process is dead")
	}
	return out, err
}

// quoted is a node's name in Erlang.
var quoted = regexp.MustCompile(`rabbit@[a-z]+`)

func (w *World) ctl(from *Box, node string, argv []string) (string, error) {
	n := from.Node.reaches(node)
	if n == nil || n.box == nil || n.box.server == nil || n.frozen.After(time.Now()) {
		return "", errors.New("rabbitmqctl: unable to connect to node " + node)
	}
	s, v := n.box.server, n.volume
	switch argv[0] {
	case "eval":
		switch {
		case strings.HasPrefix(argv[1], "init:stop"):
			w.tell(n.Who, "RabbitMQ is told to stop")
			w.did[Stopped]++
			if c := v.cluster; s.state == running && v.ran && n.twin == nil && c.id == w.record().ID && c.members[n.Name] == v {
				w.violation("%s was stopped while it served %s", n.Name, c.id)
			}
			if r := w.record(); s.state == running && r.State == "forming" && r.Seed == n.Name && r.Claim == s.boot.Claim {
				w.violation("%s was stopped while its claim to found a cluster stands", n.Name)
			}
			if s.gated() {
				w.did[LeftGate]++
			}
			s.halt()
			return "ok", nil
		case strings.Contains(argv[1], "cluster_nodes"):
			nodes, rest, _ := strings.Cut(argv[1], "], After = ")
			after, err := strconv.ParseInt(strings.SplitN(rest, ",", 2)[0], 10, 64)
			must(err)
			switch {
			case s.started().UnixMicro() <= after:
				return "gate|elder|", nil
			case s.tell(quoted.FindAllString(nodes, -1)):
				return "gate|knew|", nil
			}
			return "gate|told|", nil
		case strings.Contains(argv[1], "stopping|"): // a stop takes moments here
			return "stopping|false|", nil
		case strings.Contains(argv[1], "queues|") && s.state == running:
			return "queues|0|", nil
		case strings.Contains(argv[1], "view|") && s.state == booting && w.Khepri && v.cluster != nil: // it waits for its majority
			return fmt.Sprintf("view|%s|%s|||true|", v.cluster.id, strings.Join(sorted(v.cluster.members), ",")), nil
		case strings.Contains(argv[1], "view|") && s.state == discovering && w.Khepri: // its store, of itself alone or of a join that goes on
			knows := []string{n.Name}
			if v.half != nil && !v.spoilt {
				knows = sorted(v.half.members)
			}
			return fmt.Sprintf("view||%s|||true|", strings.Join(knows, ",")), nil
		case strings.Contains(argv[1], "led|") && w.Khepri && v.cluster != nil && (s.state == running || s.state == booting):
			return fmt.Sprintf("led|%t|", w.majority(v.cluster)), nil
		case strings.Contains(argv[1], "force_all_queues_shrink"):
			return "ok", nil
		case strings.Contains(argv[1], "view|") && s.state == running:
			c := v.cluster
			var up []string
			for _, name := range sorted(c.members) {
				if m := w.node(name); m.runs() && m.volume.cluster == c && c.members[name] == m.volume {
					up = append(up, name)
				}
			}
			var connected []string
			for _, name := range sorted(c.members) {
				if m := w.node(name); m != n && m.box != nil && m.box.server != nil && !m.frozen.After(time.Now()) {
					connected = append(connected, name)
				}
			}
			return fmt.Sprintf("view|%s|%s|%s||%t|%s|\npauses|%t|\nstarted|%d|\nlistener|amqp|::|5672|false|", c.id, strings.Join(sorted(c.members), ","), strings.Join(up, ","), w.Khepri, strings.Join(connected, ","), s.pauses, s.started().UnixMicro()), nil
		case strings.Contains(argv[1], "cluster_partition_handling, Mode"):
			s.pauses = strings.HasPrefix(argv[1], "Mode = pause_minority,")
			return "ok", nil
		}
		return "", errors.New("rabbitmqctl: the application does not run on " + node)
	case "force_standalone_khepri_boot":
		c := v.cluster
		if !w.Khepri || c == nil || s.state != running && s.state != booting {
			return "", errors.New("rabbitmqctl: no metadata store on " + node)
		}
		for _, name := range sorted(c.members) {
			if m := w.node(name); m != n && m.volume == c.members[name] && m.volume.db && m.volume.cluster == c && !m.gone {
				w.violation("%s carries on without %s, whose volume is there", node, name)
			}
		}
		c.members = map[string]*volume{node: v}
		w.tell(node, "goes on alone in "+c.id)
		w.did[WentWithout]++
		return "", nil
	case "forget_cluster_node":
		c, other := v.cluster, w.node(argv[1])
		switch {
		case s.state != running || !w.majority(c):
			return "", errors.New("rabbitmqctl: the node or its majority does not run")
		case c.members[argv[1]] == nil:
			return "", errors.New("rabbitmqctl: not a member")
		case other.runs() && other.volume.cluster == c && c.members[argv[1]] == other.volume:
			return "", errors.New("rabbitmqctl: the node to forget runs")
		}
		w.tell(node, "forgets "+argv[1])
		w.did[Forgot]++
		if w.paired(other) {
			w.excused = "a second container took the name of a node that was down"
		} else if c.members[argv[1]] == other.volume && other.volume.db && other.volume.cluster == c && !other.gone {
			w.violation("%s was made to forget %s, whose volume is there", node, argv[1])
		}
		delete(c.members, argv[1])
		return "", nil
	case "stop_app":
		if s.state != running {
			return "", errors.New("rabbitmqctl: not running")
		}
		w.tell(node, "application stopped")
		s.state = appStopped
		w.deaf(n)
		s.say("STATUS=stopping")
		s.say("STOPPING=1")
		return "", nil
	case "join_cluster": // gives up the data that the node has
		p, old := n.reaches(argv[1]), v.cluster
		if s.state != appStopped || p == nil || !p.runs() || p.volume.cluster == old || !s.take(p.volume.cluster) {
			return "", errors.New("rabbitmqctl: cannot join " + argv[1])
		}
		if old != nil {
			if old.public {
				w.violation("%s gave up data of the announced cluster %s", node, old.id)
			}
			delete(old.members, node)
		}
		v.db, v.half = false, p.volume.cluster
		s.joined()
		w.did[Joined]++
		return "", nil
	case "start_app":
		if s.state != appStopped {
			return "", errors.New("rabbitmqctl: not stopped")
		}
		s.state = booting
		s.again <- struct{}{}
		return "", nil
	}
	panic("rabbitmqctl " + strings.Join(argv, " "))
}

// halt is a clean stop of the server.
func (s *Server) halt() {
	s.say("STATUS=stopping")
	s.say("STOPPING=1")
	w := s.box.Node.w
	go func() {
		w.sleep(s.box.ctx, time.Duration((0.5+2*w.draw(s.box.Node.Who, "halt"))*1e9))
		w.mu.Lock()
		defer w.mu.Unlock()
		s.stop()
	}()
}
