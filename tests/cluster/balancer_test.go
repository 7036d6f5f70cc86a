package cluster

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// A held connection goes through the balancer and is used for nothing: whoever closes it, it is not its client.
type held struct {
	name   string
	conn   *amqp.Connection
	closed chan *amqp.Error
	node   string // rabbit@host
}

// Fifty connections through the balancer while nodes come, Consul is away for a minute, and nodes leave for good: only
// those of the nodes that leave are closed.
func TestBalancer(t *testing.T) {
	if testing.Short() {
		t.Skip("needs containers")
	}
	long(t)
	parallel(t)
	d := newDemo(t, "balancer")
	d.env = append(d.env, "COMPOSE_PROFILES=more") // nodes 4 and 5
	var all []*held
	defer func() {
		for _, h := range all {
			_ = h.conn.Close()
		}
	}()
	on := map[string]int{}
	// connects opens so many connections, and finds out where they are.
	connects := func(count int) {
		d.Helper()
		for range count {
			all = append(all, d.hold(fmt.Sprintf("held %d", len(all))))
		}
		d.located(all)
		clear(on)
		for _, h := range all {
			on[h.node]++
		}
		d.Logf("connections: %v", on)
	}
	// whole fails if one was closed that was not to be.
	whole := func() error {
		for _, h := range all {
			select {
			case err := <-h.closed:
				return fmt.Errorf("%s at %s was closed: %v", h.name, h.node, err)
			default:
			}
		}
		return nil
	}

	d.script("up", "3")
	connects(30)
	d.in("nodes are added", func() {
		d.script("up", "5")
		connects(20)
		for i := range 5 {
			if node := fmt.Sprintf("rabbit@rabbitmq%d", i+1); on[node] != 10 {
				d.Errorf("%s has %d connections of 50, want 10", node, on[node])
			}
		}
		d.throughout(10*time.Second, "none is closed", whole)
	})
	d.in("a minute without Consul", func() {
		d.compose("stop", "consul")
		d.throughout(time.Minute, "none is closed", whole)
		d.compose("start", "consul")
		d.throughout(30*time.Second, "none is closed when it is back", whole)
	})
	for _, service := range []string{"rabbitmq5", "rabbitmq4"} {
		d.in(service+" leaves", func() {
			n := d.node(service)
			n.name = "rabbit@" + service
			d.Log(n.exec("rmq-entrypoint", "leave"))
			all = slices.DeleteFunc(all, func(h *held) bool {
				if h.node != n.name {
					return false
				}
				select {
				case <-h.closed:
				case <-time.After(slow(10 * time.Second)):
					d.Errorf("%s is still connected to %s", h.name, h.node)
				}
				return true
			})
			d.compose("rm", "--stop", "--force", service)
			d.throughout(15*time.Second, "no other is closed", whole)
		})
	}
}

// hold connects through the balancer.
func (d *demo) hold(name string) *held {
	d.Helper()
	conf := amqp.Config{Dial: amqp.DefaultDial(slow(5 * time.Second)), Properties: amqp.NewConnectionProperties()}
	conf.Properties.SetClientConnectionName(name)
	conn, err := amqp.DialConfig(fmt.Sprintf("amqp://operator:%s@127.0.0.1:%d/", d.password, d.ports[d.balancer]), conf)
	if err != nil {
		d.Fatal(err)
	}
	return &held{name: name, conn: conn, closed: conn.NotifyClose(make(chan *amqp.Error, 1))}
}

// located asks the management API, through the balancer too, until it knows where each connection is.
func (d *demo) located(all []*held) {
	d.Helper()
	client := http.Client{Timeout: slow(5 * time.Second)}
	d.eventually(60*time.Second, "the management API lists the connections", func() error {
		resp, err := client.Get(fmt.Sprintf("http://operator:%s@127.0.0.1:%d/api/connections?columns=node,user_provided_name", d.password, d.ports[d.balancer+"_MANAGEMENT"]))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var list []struct {
			Node string `json:"node"`
			Name string `json:"user_provided_name"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
			return fmt.Errorf("%s: %w", resp.Status, err)
		}
		for _, c := range list {
			for _, h := range all {
				if h.name == c.Name {
					h.node = c.Node
				}
			}
		}
		for _, h := range all {
			if h.node == "" {
				return fmt.Errorf("%s is not among %d", h.name, len(list))
			}
		}
		return nil
	})
}
