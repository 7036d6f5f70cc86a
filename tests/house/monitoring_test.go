package house

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every node that opens its address for operators is asked there by name: one that does not pass is not in Consul's DNS.
func TestEveryCompanionIsAsked(t *testing.T) {
	compose, err := os.ReadFile("../../compose/docker-compose.yml")
	if err != nil {
		t.Fatal(err)
	}
	asks, err := os.ReadFile("../../compose/monitoring/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	port := regexp.MustCompile(`RMQ_ADMIN: "(:\d+)"`).FindStringSubmatch(string(compose))
	nodes := regexp.MustCompile(`(?m)^  (rabbitmq\d+):$`).FindAllStringSubmatch(string(compose), -1)
	if len(port) != 2 || len(nodes) < 3 {
		t.Fatalf("at %v of %v", port, nodes)
	}
	for _, n := range nodes {
		if !strings.Contains(string(asks), `"`+n[1]+port[1]+`"`) {
			t.Errorf("%s%s is not asked", n[1], port[1])
		}
	}
}

// The alerts, their tests and the dashboard ask for metrics that there are, and every alert has a test in which it fires.
func TestMonitoring(t *testing.T) {
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	there := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\w+) gauge$`).FindAllStringSubmatch(read("internal/overview/testdata/metrics"), -1) {
		there[m[1]] = true
	}
	if len(there) < 12 {
		t.Fatalf("there are the metrics %v", there)
	}
	asked := map[string]bool{}
	for _, name := range []string{"compose/monitoring/alerts.yml", "compose/monitoring/alerts_test.yml", "compose/monitoring/dashboard.json"} {
		for _, m := range regexp.MustCompile(`\brmq_entrypoint_\w+`).FindAllString(read(name), -1) {
			if asked[m] = true; !there[m] {
				t.Errorf("%s asks for %s, which is no metric", name, m)
			}
		}
	}
	if len(asked) < 12 {
		t.Errorf("only %v are asked for", asked)
	}
	if dashboard := read("compose/monitoring/dashboard.json"); !json.Valid([]byte(dashboard)) {
		t.Error("the dashboard is no JSON")
	}
	fires := map[string]bool{}
	for _, m := range regexp.MustCompile(`alertname="(\w+)"`).FindAllStringSubmatch(read("compose/monitoring/alerts_test.yml"), -1) {
		fires[m[1]] = true
	}
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(read("compose/monitoring/alerts.yml"), -1)
	if len(alerts) != len(fires) {
		t.Errorf("there are %d alerts, and tests of %d", len(alerts), len(fires))
	}
	for _, m := range alerts {
		if !fires[m[1]] {
			t.Errorf("no test has %s fire", m[1])
		}
	}
}
