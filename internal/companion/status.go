package companion

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"rmq-entrypoint/internal/overview"
	"rmq-entrypoint/internal/policy"
	"rmq-entrypoint/internal/statedir"
)

// Ask reads what the companion of this node says of it, at its socket ([config.Config.StatusSocket]).
// No proxy comes between.
func Ask(ctx context.Context, socket string) (r Report, err error) {
	err = asking(ctx, socket, "/status", &r)
	return r, err
}

// AskCluster reads what that companion says of the whole cluster.
func AskCluster(ctx context.Context, socket string) (d overview.Document, err error) {
	err = asking(ctx, socket, "/cluster", &d)
	return d, err
}

// asking reads the JSON at path into answer.
func asking(ctx context.Context, socket, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // two of these fit into Docker's health check
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://companion"+path, nil)
	if err != nil {
		return err
	}
	client := http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(io.LimitReader(resp.Body, mostReport)).Decode(answer)
}

// mostReport is more than a report of any cluster has, in bytes.
const mostReport = 8 << 20

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
	Looked    time.Time     `json:"looked_at"`          // at the node
	Still     int           `json:"still_seconds"`      // since the companion's loop last came round
	PID       int           `json:"server_pid"`
	Companion int           `json:"companion_pid"`

	Verified   bool     `json:"verified"`                     // since the server started
	Partitions []string `json:"partitions,omitempty"`         // nodes that RabbitMQ here is partitioned from
	Khepri     bool     `json:"khepri,omitempty"`             // the members decide by majority
	Pauses     bool     `json:"pauses_in_minority,omitempty"` // RabbitMQ here is to pause in a minority
}

// Ready reports whether the node is fit to serve.
func (r Report) Ready() bool { return r.Status == api.HealthPassing || r.Status == api.HealthWarning }

// board holds what /status shows. What it tells is true when it is asked: a report that the
// node serves holds for a TTL after the node was looked at.
type board struct {
	mu     sync.Mutex
	ttl    time.Duration
	shown  Report
	looked time.Time // when the node was last looked at
	bad    string    // what the last look found wrong, or ""
	began  time.Time // that look
	turned time.Time // when the loop last came round; zero: it did not begin

	cluster *glimpse // what was last seen of all of it
}

// show publishes that the node does not serve, and why.
func (c *companion) show(why string) {
	c.showVerdict(policy.Verdict{Status: policy.Critical, Lost: c.state.Majority.Lost, Out: c.board.read().Out}, why, time.Now())
}

// showVerdict publishes what a heartbeat found that goes by the look which began then, and
// logs a change of status.
func (c *companion) showVerdict(v policy.Verdict, reason string, began time.Time) {
	rt, view := c.Runtime, c.state.View
	was, r := c.board.write(Report{
		Node: rt.Config.Node, Role: rt.Role, Status: v.Status, Reason: reason, Since: time.Now(), ClusterID: rt.Cluster,
		Members: view.Members, Running: view.Running, Volume: rt.Volume, Lost: v.Lost, Warning: c.state.Upkeep.Warning, Out: v.Out,
		RabbitMQ: rt.Version, Consul: c.Consul.Addr, Beat: c.state.Entry.ReportedAt, PID: rt.PID, Companion: os.Getpid(),
		Verified: c.state.Membership.Verified, Partitions: view.Partitions, Khepri: view.Khepri, Pauses: view.Pauses,
	}, began)
	if was != r.Status && was != "" {
		c.Log.Info("health check", "status", r.Status, "was", was, "why", r.Reason)
	}
}

// read returns the report as it is now.
func (b *board) read() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.shown
	r.Looked = b.looked
	if !b.turned.IsZero() {
		r.Still = int(time.Since(b.turned).Seconds())
	}
	age := time.Since(b.looked)
	switch {
	case age <= b.ttl:
	case r.Ready():
		r.Reason = fmt.Sprintf("not looked at for %s: the companion hangs; last: %s: %s", age.Round(time.Second), r.Status, r.Reason)
		r.Status, r.Since = policy.Critical, b.looked.Add(b.ttl)
	default:
		r.Reason += fmt.Sprintf(" (not looked at for %s)", age.Round(time.Second))
	}
	return r
}

// age is how long ago the node was looked at.
func (b *board) age() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(b.looked)
}

// look notes that the node was looked at.
func (b *board) look(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.looked = now
}

// turn notes that the loop came round.
func (b *board) turn(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turned = now
}

// found notes what the look that began then found wrong, or "", and publishes that unless
// there is a word on what is wrong already. It returns the status before and after.
func (b *board) found(began time.Time, bad string) (was, now string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.began, b.bad, was = began, bad, b.shown.Status
	if bad != "" && b.shown.Ready() {
		b.shown.Status, b.shown.Reason, b.shown.Since = policy.Critical, bad, time.Now()
	}
	return was, b.shown.Status
}

// write shows what a heartbeat found that goes by the look which began then: unless a later
// look found that the node does not serve. It returns the status before, and what is shown.
func (b *board) write(r Report, began time.Time) (was string, now Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Ready() && b.bad != "" && b.began.After(began) {
		r.Status, r.Reason = policy.Critical, b.bad
	}
	if was = b.shown.Status; was == r.Status {
		r.Since = b.shown.Since
	}
	b.shown = r
	return was, r
}

// ready answers /ready (200, or 503 and the reason) for balancers and probes: whoever reaches the
// port may ask.
func (b *board) ready() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, req *http.Request) {
		asks(req)
		r := b.read()
		if !r.Ready() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "%s: %s\n", r.Status, r.Reason)
	})
	return mux
}

// Print writes the report as JSON.
func (r Report) Print(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
