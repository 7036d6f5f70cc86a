package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

const prometheusImage = "rmq-entrypoint/prometheus:latest"

func needPrometheus(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs containers")
	}
	if _, err := try("image", "inspect", prometheusImage); err != nil {
		t.Fatalf("there is no image %s: scripts/images --prometheus makes it", prometheusImage)
	}
}

// promtool is Debian's, in a container that reaches nobody, with the folder of the repository at /here.
func promtool(t *testing.T, folder, stdin string, args ...string) string {
	t.Helper()
	here, err := filepath.Abs(filepath.Join("../..", folder))
	if err != nil {
		t.Fatal(err)
	}
	run := append([]string{"run", "--rm", "-i", "--label", label, "--network", "none", "-v", here + ":/here:ro", "--entrypoint", "promtool", prometheusImage}, args...)
	cmd := exec.Command("docker", run...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Prometheus takes what the example gives it: its configuration, the alerts, each of which fires in a test, and what a
// companion answers.
func TestPrometheus(t *testing.T) {
	needPrometheus(t)
	parallel(t)
	promtool(t, "compose/monitoring", "", "check", "config", "/here/prometheus.yml")
	promtool(t, "compose/monitoring", "", "test", "rules", "/here/alerts_test.yml")
	metrics, err := os.ReadFile("../../internal/overview/testdata/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if out := promtool(t, "compose", string(metrics), "check", "metrics"); strings.TrimSpace(out) != "" {
		t.Errorf("promtool says of the metrics: %s", out)
	}
}

// Prometheus beside the example cluster, as compose/prometheus.yml starts it: an alert fires for what is wrong there, none
// does for what is well, and three nodes are one cluster, by Consul's DNS and by their names.
func TestPrometheusTells(t *testing.T) {
	needPrometheus(t)
	parallel(t)
	d := newDemo(t, "prometheus")
	d.ports["PROMETHEUS"] = freePort(t)
	d.env = append(d.env, fmt.Sprintf("PROMETHEUS_PORT=%d", d.ports["PROMETHEUS"]),
		"COMPOSE_FILE=docker-compose.yml:prometheus.yml:"+labelled(t, "consul", "dnsmasq", "haproxy", "prometheus")+":"+hurried(t))
	var err error
	if d.consul, err = api.NewClient(&api.Config{Address: fmt.Sprintf("127.0.0.1:%d", d.ports["CONSUL"])}); err != nil {
		t.Fatal(err)
	}
	d.compose("up", "-d", "consul", "dnsmasq", "prometheus", "rabbitmq1", "rabbitmq2")
	n1, n2 := d.node("rabbitmq1"), d.node("rabbitmq2")
	var id string
	d.in("two nodes are one cluster", func() { id = d.one(n1, n2) })
	d.in("the record is garbage", func() {
		d.rewritten(func([]byte) []byte { return []byte("garbage") }, func(write func()) { d.fires("RabbitMQRecordUnreadable", "", write) })
	})
	d.in("the record is another cluster's", func() {
		d.rewritten(anothers, func(write func()) { d.fires("RabbitMQNotOneCluster", "", write) })
	})
	d.in("two nodes are too few", func() { d.fires("RabbitMQTwoNodes", "", func() {}) })
	var n3 *node
	d.in("Consul goes away while a third node joins", func() {
		d.fires("RabbitMQConsulAway", `instance="rabbitmq1:15689"`, func() {
			began := time.Now()
			d.compose("up", "-d", "rabbitmq3")
			n3 = d.node("rabbitmq3")
			n3.began = began
			n3.said(90*time.Second, "becoming the server")
			consul := d.node("consul").container
			d.docker("pause", consul)
			d.Cleanup(func() { _, _ = try("unpause", consul) })
		})
		d.shows(`count(ALERTS{alertname="RabbitMQNotVerified", alertstate="firing", instance="rabbitmq3:15689"})`, 1)
	})
	d.in("three nodes are one cluster, and all is well", func() {
		d.same(id, d.one(n1, n2, n3))
		d.shows(`count(up{job="rabbitmq"} == 1)`, 3)
		d.shows(`count(up{job="rmq-entrypoint", instance=~"rabbitmq[123]:15689"} == 1)`, 3)
		d.shows(`count(rabbitmq_identity_info{rabbitmq_cluster="rabbitmq"})`, 3) // what RabbitMQ's own dashboards go by
		d.shows(`count(count by (rabbitmq_cluster, rabbitmq_cluster_permanent_id) (rabbitmq_identity_info))`, 1)
		d.dashboard(map[string]float64{"One cluster": 1, "Nothing is wrong": 1, "May one be stopped now": 1, "Consul gives the record": 1, "Members": 3})
		d.shows("count(ALERTS) or vector(0)", 0)
	})
}

// hurried is a file for Compose by which it all takes seconds: how often Prometheus asks, how long a condition holds before
// its alert fires, and after how long Consul counts as away. Everything else is the example's.
func hurried(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const from = "../../compose/monitoring/"
	for name, sooner := range map[string]map[string]string{
		"prometheus.yml": {`(_interval:) \d+s`: "$1 3s"},
		"alerts.yml":     {`( for:) \d+m`: "$1 3s", `(rmq_entrypoint_heartbeat_age_seconds >) 60`: "$1 20"},
	} {
		text, err := os.ReadFile(from + name)
		if err != nil {
			t.Fatal(err)
		}
		for pattern, with := range sooner {
			re := regexp.MustCompile(pattern)
			if !re.Match(text) {
				t.Fatalf("%s has no %s", name, pattern)
			}
			text = re.ReplaceAll(text, []byte(with))
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("services:\n  prometheus: {volumes: [%q]}\n", dir+":/etc/monitoring:ro")
	for _, name := range demoNodes {
		text += fmt.Sprintf("  %s: {environment: {RMQ_TTL: %s}, healthcheck: {interval: 20s}}\n", name, ttl)
	}
	file := filepath.Join(t.TempDir(), "hurried.yml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// rewritten has write put another record in the place of the one there is, and puts that back at the end.
func (d *demo) rewritten(as func(was []byte) []byte, f func(write func())) {
	d.Helper()
	const key = "rmq-entrypoint/rabbitmq/cluster"
	put := func(value []byte) {
		d.Helper()
		if _, err := d.consul.KV().Put(&api.KVPair{Key: key, Value: value}, nil); err != nil {
			d.Fatal(err)
		}
	}
	was, _, err := d.consul.KV().Get(key, nil)
	if err != nil || was == nil {
		d.Fatal(was, err)
	}
	f(func() { put(as(was.Value)) })
	put(was.Value)
}

// anothers is the record as of another cluster, with a member that RabbitMQ here does not know: a new id alone would be
// RabbitMQ's own doing.
func anothers(was []byte) []byte {
	var r map[string]any
	if err := json.Unmarshal(was, &r); err != nil {
		return was
	}
	r["cluster_id"] = "rabbitmq-cluster-id-of-another"
	r["members"].(map[string]any)["rabbit@elsewhere"] = "another-volume"
	text, err := json.Marshal(r)
	if err != nil {
		return was
	}
	return text
}

// fires waits until there is no such alert, does what it is there for, and waits until it fires.
func (d *demo) fires(alert, labels string, provoke func()) {
	d.Helper()
	d.shows(fmt.Sprintf("count(ALERTS{alertname=%q, %s}) or vector(0)", alert, labels), 0)
	provoke()
	began := time.Now()
	d.shows(fmt.Sprintf("count(ALERTS{alertname=%q, alertstate=\"firing\", %s})", alert, labels), 1)
	d.Logf("%s fires after %s", alert, time.Since(began).Round(100*time.Millisecond))
}

// dashboard fails unless these panels come to show that, in each of their series, and all others something, but for the
// starts refused, of which there are none.
func (d *demo) dashboard(want map[string]float64) {
	d.Helper()
	text, err := os.ReadFile("../../compose/monitoring/dashboard.json")
	if err != nil {
		d.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		d.Fatal(err)
	}
	left := maps.Clone(want)
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			query := strings.ReplaceAll(target.Expr, "$service", "rabbitmq")
			value, told := want[panel.Title]
			delete(left, panel.Title)
			switch {
			case told:
				d.shows("min("+query+")", value)
				d.shows("max("+query+")", value)
			case panel.Title != "Starts refused":
				d.shows("clamp_max(count("+query+"), 1)", 1)
			default:
				d.shows("count("+query+") or vector(0)", 0)
			}
		}
	}
	if len(left) > 0 {
		d.Errorf("the dashboard lacks the panels %v", slices.Sorted(maps.Keys(left)))
	}
}

// shows waits until Prometheus' only answer to the query is that value.
func (d *demo) shows(query string, want float64) {
	d.Helper()
	d.every(500*time.Millisecond, 90*time.Second, query, func() error {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/api/v1/query?query=%s", d.ports["PROMETHEUS"], url.QueryEscape(query)))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		var answer struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		if result := answer.Data.Result; len(result) != 1 || result[0].Value[1] != fmt.Sprint(want) {
			return errors.New(string(text))
		}
		return nil
	})
}
