package companion

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/statedir"
)

// Ask reads /status of the companion of this node.
func Ask(ctx context.Context, addr string) (Report, error) {
	var r Report
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port)+"/status", nil)
	if err != nil {
		return r, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	return r, json.NewDecoder(resp.Body).Decode(&r)
}

// Report is the companion's word on the node: the same truth as the TTL check.
type Report struct {
	Node      string        `json:"node"`
	Role      statedir.Role `json:"role"`
	Status    string        `json:"status"` // passing, warning or critical
	Reason    string        `json:"reason"`
	Since     time.Time     `json:"since"` // of Status
	ClusterID string        `json:"cluster_id,omitempty"`
	Members   []string      `json:"members,omitempty"`
	Running   []string      `json:"running,omitempty"`
	Volume    string        `json:"volume,omitempty"`
	Lost      []string      `json:"lost,omitempty"`           // members without which this node goes on only by force-boot
	Warning   string        `json:"warning,omitempty"`        // of a cluster that is too small
	Out       bool          `json:"out_of_service,omitempty"` // by drain or leave
	RabbitMQ  string        `json:"rabbitmq_version"`
	Consul    string        `json:"consul"`
	Beat      time.Time     `json:"last_beat,omitzero"` // the last one that Consul took
	PID       int           `json:"server_pid"`
	Companion int           `json:"companion_pid"`
}

// Ready reports whether the node is fit to serve.
func (r Report) Ready() bool { return r.Status == api.HealthPassing || r.Status == api.HealthWarning }

// show publishes what the last beat found, and logs a change of status.
func (c *Companion) show(r Report) {
	r.Node, r.Role, r.ClusterID, r.Volume, r.RabbitMQ = c.rt.Config.Node, c.rt.Role, c.rt.Cluster, c.rt.Volume, c.rt.Version
	r.Members, r.Running, r.Consul, r.Beat = c.view.Members, c.view.Running, c.consul.Addr, c.reported
	r.PID, r.Companion, r.Since = c.rt.PID, os.Getpid(), time.Now()
	r.Lost, r.Out, r.Warning = c.lost, c.out, c.warned
	c.mu.Lock()
	was := c.shown
	if was.Status == r.Status {
		r.Since = was.Since
	}
	c.shown = r
	c.mu.Unlock()
	if was.Status != r.Status && was.Status != "" {
		c.log.Info("health check", "status", r.Status, "was", was.Status, "why", r.Reason)
	}
}

// story logs what and why when they have changed.
func (c *Companion) story(what, why string) {
	if c.told != what+why {
		c.told = what + why
		c.log.Info(what, "why", why)
	}
}

// listenHTTP serves /ready (200, or 503 and the reason) for balancers and
// probes, and /status for people and our own health check.
func (c *Companion) listenHTTP() (*http.Server, error) {
	mux := http.NewServeMux()
	shown := func() Report {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.shown
	}
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		r := shown()
		if !r.Ready() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "%s: %s\n", r.Status, r.Reason)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(shown())
	})
	l, err := net.Listen("tcp", c.rt.Config.HTTP)
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	return s, nil
}
