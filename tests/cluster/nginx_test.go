package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A working connection publishes to a queue of its own, and takes out again, until it is closed.
type working struct {
	*held
	messages atomic.Int64
	ended    chan error
}

// The balancer with nginx and consul-template: of three nodes one is drained, stopped and started again under load. It
// loses its own connections, and no other one is closed; new ones go to the two meanwhile, and to all three in the end.
func TestNginx(t *testing.T) {
	if testing.Short() {
		t.Skip("needs containers")
	}
	parallel(t)
	d := newDemo(t, "nginx")
	d.balancer = "NGINX"
	for _, port := range []string{"NGINX", "NGINX_MANAGEMENT"} {
		d.ports[port] = freePort(t)
		d.env = append(d.env, fmt.Sprintf("%s_PORT=%d", port, d.ports[port]))
	}
	d.env = append(d.env, "COMPOSE_FILE=docker-compose.yml:nginx/compose.yml:"+labelled(t, "consul", "dnsmasq", "haproxy", "nginx"))
	if _, err := try("image", "inspect", "rmq-entrypoint/nginx:latest"); err != nil {
		t.Fatal("there is no image rmq-entrypoint/nginx:latest: scripts/images --nginx makes it")
	}
	var all []*working
	defer func() {
		for _, w := range all {
			_ = w.conn.Close()
			<-w.ended
		}
	}()
	nodes := demoNodes[:3]
	last := nodes[2]

	d.in("three nodes get connections", func() {
		d.compose(append([]string{"up", "-d", "consul", "dnsmasq", "nginx"}, nodes...)...)
		d.routed(240*time.Second, nodes...)
		all = d.connect(all, 2, nodes...)
	})
	d.in("a drained node loses its own alone", func() {
		d.node(last).exec("rmq-entrypoint", "drain")
		d.routed(60*time.Second, nodes[:2]...)
		all = d.lost(all, last)
		d.work(all)
	})
	d.in("stopped, it gets no connection", func() {
		d.compose("stop", last)
		all = d.connect(all, 4, nodes[:2]...)
		d.work(all)
	})
	d.in("started again, it gets connections", func() {
		d.compose("start", last)
		d.routed(150*time.Second, nodes...)
		all = d.connect(all, 1, nodes...)
		d.work(all)
	})
}

// routed waits until consul-template has written these services' nodes for nginx, and no others.
func (d *demo) routed(within time.Duration, services ...string) {
	d.Helper()
	server := regexp.MustCompile(`(?m)^    server (\S+):5672 max_fails`)
	d.eventually(within, fmt.Sprintf("nginx is told of %v", services), func() error {
		var want, got []string
		for _, service := range services {
			address, err := try("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", d.node(service).container)
			if err != nil {
				return err
			}
			want = append(want, address)
		}
		out, err := d.node("nginx").tryExec("cat", "/etc/nginx/nodes.conf")
		if err != nil {
			return err
		}
		for _, m := range server.FindAllStringSubmatch(out, -1) {
			got = append(got, m[1])
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			return fmt.Errorf("it is told of %v, want %v", got, want)
		}
		return nil
	})
}

// connect opens connections that work until each of these services' nodes has that many more. It fails if another node
// gets one. What nginx was told last counts a moment later, when it has loaded that.
func (d *demo) connect(all []*working, each int, services ...string) []*working {
	d.Helper()
	var fresh []*held
	on := map[string]int{}
	short := func() bool {
		return slices.ContainsFunc(services, func(service string) bool { return on["rabbit@"+service] < each })
	}
	for short() && len(fresh) < 20 {
		for range max(1, each*len(services)-len(fresh)) {
			w := &working{held: d.hold(fmt.Sprintf("%d for each of %v: %d", each, services, len(fresh))), ended: make(chan error, 1)}
			go func() { w.ended <- w.run() }()
			all, fresh = append(all, w), append(fresh, w.held)
		}
		d.located(fresh)
		clear(on)
		for _, h := range fresh {
			on[h.node]++
		}
	}
	d.Logf("connections: %v", on)
	others := maps.Clone(on)
	for _, service := range services {
		delete(others, "rabbit@"+service)
	}
	if short() || len(others) > 0 {
		d.Fatalf("want at least %d connections at each of %v and none elsewhere, got %v", each, services, on)
	}
	return all
}

// run works, a message every 50 ms, and returns why it ended.
func (w *working) run() error {
	ch, err := w.conn.Channel()
	if err != nil {
		return err
	}
	queue, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err = errors.Join(err, ch.Confirm(false)); err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		ctx, cancel := context.WithTimeout(context.Background(), slow(30*time.Second))
		sent, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", queue.Name, true, false, amqp.Publishing{Body: []byte(w.name)})
		if err == nil {
			_, err = sent.WaitContext(ctx)
		}
		cancel()
		if err == nil {
			_, _, err = ch.Get(queue.Name, true)
		}
		if err != nil {
			return err
		}
		w.messages.Add(1)
	}
	return nil
}

// lost waits until the service's node has closed all of its connections, and returns the others.
func (d *demo) lost(all []*working, service string) []*working {
	d.Helper()
	return slices.DeleteFunc(all, func(w *working) bool {
		if w.node != "rabbit@"+service {
			return false
		}
		select {
		case err := <-w.closed:
			if err == nil || err.Code != amqp.ConnectionForced || !strings.Contains(err.Reason, "maintenance") {
				d.Errorf("%s at %s was closed by %v, not for maintenance", w.name, w.node, err)
			}
			<-w.ended
		case <-time.After(slow(30 * time.Second)):
			d.Errorf("%s is still connected to %s", w.name, w.node)
		}
		return true
	})
}

// work fails unless each of the connections is there and takes messages.
func (d *demo) work(all []*working) {
	d.Helper()
	before := map[*working]int64{}
	for _, w := range all {
		before[w] = w.messages.Load()
	}
	d.eventually(30*time.Second, "messages go through every connection", func() error {
		for _, w := range all {
			select {
			case err := <-w.closed:
				d.Fatalf("%s at %s was closed: %v", w.name, w.node, err)
			case err := <-w.ended:
				w.ended <- err
				d.Fatalf("%s at %s no longer works: %v", w.name, w.node, err)
			default:
			}
			if w.messages.Load() <= before[w] {
				return fmt.Errorf("none through %s at %s", w.name, w.node)
			}
		}
		return nil
	})
}
