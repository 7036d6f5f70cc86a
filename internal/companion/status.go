package companion

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/policy"
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

// board holds what /status shows.
type board struct {
	mu    sync.Mutex
	shown Report
}

// show publishes that the node does not serve, and why.
func (c *companion) show(why string) {
	c.showVerdict(policy.Verdict{Status: policy.Critical, Lost: c.state.Majority.Lost, Out: c.board.read().Out}, why)
}

// showVerdict publishes what the last heartbeat found, and logs a change of status.
func (c *companion) showVerdict(v policy.Verdict, reason string) {
	rt, view := c.Runtime, c.state.View
	r := Report{
		Node: rt.Config.Node, Role: rt.Role, Status: v.Status, Reason: reason, Since: time.Now(), ClusterID: rt.Cluster,
		Members: view.Members, Running: view.Running, Volume: rt.Volume, Lost: v.Lost, Warning: c.state.Upkeep.Warning, Out: v.Out,
		RabbitMQ: rt.Version, Consul: c.Consul.Addr, Beat: c.state.Entry.ReportedAt, PID: rt.PID, Companion: os.Getpid(),
	}
	was := c.board.read()
	if was.Status == r.Status {
		r.Since = was.Since
	}
	c.board.write(r)
	if was.Status != r.Status && was.Status != "" {
		c.Log.Info("health check", "status", r.Status, "was", was.Status, "why", r.Reason)
	}
}

func (b *board) read() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.shown
}

func (b *board) write(r Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shown = r
}

// handler answers /ready (200, or 503 and the reason) for balancers and probes, and /status
// for people and our own health check.
func (b *board) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		r := b.read()
		if !r.Ready() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "%s: %s\n", r.Status, r.Reason)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(b.read())
	})
	return mux
}

func serve(addr string, h http.Handler) (*http.Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	return s, nil
}
