package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/consultest"
	"rmq-entrypoint/tests/expect"
)

// released builds the program as it is released: without the race detector and the tests, which
// take several times the memory.
func released(t testing.TB) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "rmq-entrypoint")
	build := exec.Command("go", "build", "-trimpath", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(bin)
	expect.Must(t, err)
	return program
}

// runs has the nodes of this world run program.
func (w *world) runs(program []byte) {
	w.t.Helper()
	path := filepath.Join(w.root, "bin", "rmq-entrypoint")
	expect.Must(w.t, os.Remove(path))
	expect.Must(w.t, os.WriteFile(path, program, 0o755))
}

// BenchmarkStart prints what the program costs: the time from process start to
// the exec of the server, with a free lock and a local Consul (median of 20), and
// what its companion holds in memory. Run it with -benchtime=1x.
func BenchmarkStart(b *testing.B) {
	c := consultest.Start(b)
	program := released(b)
	world := func() *world {
		w := newWorld(b, c)
		w.runs(program)
		return w
	}

	var ms []float64
	for range 20 {
		w := world()
		w.stubServer(`date +%s%N >"$RMQ_TEST_DIR/now"; mv "$RMQ_TEST_DIR/now" "$RMQ_TEST_DIR/at"; exec sleep 600`)
		n := w.node("rabbit@localhost")
		began := time.Now()
		n.start()
		expect.Eventually(b, soon, "the server is there", func() error {
			at, err := os.ReadFile(n.path("at"))
			if err != nil {
				return err
			}
			ns, err := strconv.ParseInt(strings.TrimSpace(string(at)), 10, 64)
			ms = append(ms, float64(ns-began.UnixNano())/1e6)
			return err
		})
		w.endProcesses()
	}
	slices.Sort(ms)

	w := world()
	n := w.node("rabbit@localhost")
	n.env = append(n.env, "RMQ_ADMIN="+n.ip+":15689")
	n.serves()
	time.Sleep(time.Minute + time.Second) // then it has given back what only its start took
	holds := func(pages ...string) (mib float64) {
		for range 3 {
			time.Sleep(testBeat) // who asks for its report has it collect garbage: it is not idle
			for _, path := range pages {
				n.page(path)
			}
		}
		for _, pid := range w.companions() {
			mib += float64(expect.Memory(b, pid, "VmRSS")) / 1024
		}
		return mib
	}
	mib := holds()
	n.reports(soon, "passing", "")
	asked := holds("/", "/metrics", "/metrics", "/metrics") // by a Prometheus and a browser
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ms[len(ms)/2], "ms/start")
	b.ReportMetric(ms[len(ms)-1], "ms/slowest")
	b.ReportMetric(mib, "MiB/companion")
	b.ReportMetric(asked, "MiB/asked")
	if mib > 12 {
		b.Errorf("the companion holds %.1f MiB, at most 12 are allowed", mib)
	}
}
