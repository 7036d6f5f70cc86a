package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/expect"
)

// Files on the volume that nobody of us wrote are damaged, and nothing is moved.
func TestFilesNobodyWrote(t *testing.T) {
	t.Parallel()
	for file, texts := range map[string][]string{
		"pending": {"", "{}", "null", `{"role":"joining"}`, `{"role":"king","volume":"v"}`, `{"volume":"v"}`},
		"member":  {"", "{}", `{"cluster_id":"id"}`, `{"volume":"v"}`},
	} {
		for _, text := range texts {
			v := testVolume(t)
			touch(t, v.Data+"/schema.DAT")
			expect.Must(t, os.MkdirAll(v.State, 0o755))
			expect.Must(t, os.WriteFile(v.file(file), []byte(text), 0o644))
			c, err := v.Inspect()
			if err == nil || !strings.Contains(err.Error(), v.file(file)+" is damaged") {
				t.Errorf("%s with %q: %+v, %v", file, text, c, err)
			}
		}
	}
}

func testVolume(t *testing.T) Dir {
	t.Helper()
	base := t.TempDir()
	v := Dir{Data: filepath.Join(base, "rabbit@a"), State: filepath.Join(base, "rabbit@a-entrypoint")}
	expect.Must(t, os.Mkdir(v.State, 0o755))
	return v
}

func touch(t *testing.T, path string) {
	t.Helper()
	expect.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	expect.Must(t, os.WriteFile(path, nil, 0o644))
}

// Every combination of RabbitMQ's directory, marker and pending file.
func TestInspect(t *testing.T) {
	marker := &Marker{ClusterID: "id", Volume: "vm", Members: []string{"rabbit@a", "rabbit@b"}}
	asMember := Found{Role: Member, Volume: "vm", Cluster: "id", Members: marker.Members}
	for _, dir := range []struct {
		name     string
		files    []string // nil: no directory at all
		database bool
		empty    bool
	}{
		{"no directory", nil, false, true},
		{"empty directory", []string{}, false, true},
		{"in discovery", []string{"coordination/x", "quorum/x", "cluster_nodes.config", "rabbitmq_metadata/x"}, false, false},
		{"Mnesia", []string{"schema.DAT"}, true, false},
		{"Khepri", []string{"rabbit_serial", "rabbitmq_metadata/x"}, true, false},
		{"both", []string{"schema.DAT", "rabbit_serial"}, true, false},
	} {
		for _, m := range []*Marker{nil, marker} {
			for _, as := range []Role{"", Seeding, Joining, Alone} {
				v := testVolume(t)
				if dir.files != nil {
					expect.Must(t, os.Mkdir(v.Data, 0o755))
				}
				for _, f := range dir.files {
					touch(t, filepath.Join(v.Data, f))
				}
				if m != nil {
					expect.Must(t, writeJSON(v.file("member"), m))
				}
				if as != "" {
					expect.Must(t, v.WritePending(Pending{Role: as, Claim: "c", Volume: "vp"}))
				}

				var want Found
				switch {
				case m != nil && !dir.empty: // the marker wins over pending, and over not knowing the files
					want = asMember
				case as == "" && dir.database: // an adopted volume
					want = Found{Role: Member}
				case as == "":
					want = Found{}
				case dir.database && as != Alone: // start at once in the same role
					want = Found{Role: as, Volume: "vp", Claim: "c"}
				default: // blank, but whose it is and what was under way is known
					want = Found{Volume: "vp", Claim: "c", Alone: dir.database, Joining: as == Joining}
				}
				if m != nil && dir.empty {
					want.Lost = m.ClusterID
				}

				got, err := v.Inspect()
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s, marker %v, pending %q: %+v, %v; want %+v", dir.name, m != nil, as, got, err, want)
				}
			}
		}
	}
}

// What cannot be read is an error, never "blank".
// Only a founding with what was founded before, by accident, may count as blank.
func TestInspectWasAlone(t *testing.T) {
	for _, p := range []Pending{{Role: Seeding, Alone: true}, {Role: Seeding}, {Role: Joining, Alone: true}, {Role: Alone, Alone: true}} {
		v := testVolume(t)
		expect.Must(t, os.Mkdir(v.Data, 0o755))
		touch(t, filepath.Join(v.Data, "schema.DAT"))
		p.Volume = "vp"
		expect.Must(t, v.WritePending(p))
		if found, err := v.Inspect(); err != nil || found.WasAlone != (p.Role == Seeding && p.Alone) {
			t.Errorf("%+v: %+v, %v", p, found, err)
		}
	}
}

func TestInspectDoesNotGuess(t *testing.T) {
	for name, spoil := range map[string]func(v Dir) string{
		"pending damaged":        func(v Dir) string { return v.file("pending") },
		"marker damaged":         func(v Dir) string { return v.file("member") },
		"pending is a directory": func(v Dir) string { return "" },
	} {
		v := testVolume(t)
		if path := spoil(v); path != "" {
			expect.Must(t, os.WriteFile(path, []byte(`{"role":"join`), 0o644))
			_, err := v.Inspect()
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "remove it") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		expect.Must(t, os.Mkdir(v.file("pending"), 0o755))
		if c, err := v.Inspect(); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
	// RabbitMQ's directory cannot be looked into.
	v := testVolume(t)
	touch(t, v.Data) // a file in its place
	if c, err := v.Inspect(); err == nil {
		t.Errorf("a file in place of the directory: %+v", c)
	}
	// An empty file, as a crash of another program's write would leave it.
	v = testVolume(t)
	touch(t, v.file("member"))
	if c, err := v.Inspect(); err == nil {
		t.Errorf("an empty marker: %+v", c)
	}
}

// A join that came to nothing is no join under way; with a database it may have come
// to something.
func TestInspectFailedJoin(t *testing.T) {
	v := testVolume(t)
	expect.Must(t, v.WritePending(Pending{Role: Joining, Claim: "c", Volume: "vp", Failed: true}))
	if c, err := v.Inspect(); err != nil || !reflect.DeepEqual(c, Found{Volume: "vp", Claim: "c", Failed: true}) {
		t.Errorf("%+v, %v", c, err)
	}
	marked := testVolume(t) // a member once
	expect.Must(t, writeJSON(marked.file("member"), Marker{ClusterID: "id", Volume: "vm"}))
	expect.Must(t, marked.WritePending(Pending{Role: Joining, Claim: "c", Volume: "vp", Failed: true}))
	if c, err := marked.Inspect(); err != nil || c.Failed || c.Lost != "id" {
		t.Errorf("with a marker: %+v, %v", c, err)
	}
	touch(t, filepath.Join(v.Data, "rabbit_serial"))
	if c, err := v.Inspect(); err != nil || !reflect.DeepEqual(c, Found{Role: Joining, Volume: "vp", Claim: "c"}) {
		t.Errorf("with a database: %+v, %v", c, err)
	}
}

// First the marker, then pending goes: a crash in between leaves a member.
func TestWriteMember(t *testing.T) {
	v := testVolume(t)
	touch(t, filepath.Join(v.Data, "schema.DAT"))
	expect.Must(t, v.WritePending(Pending{Role: Joining, Volume: "v1"}))
	expect.Must(t, os.Mkdir(v.file("member"), 0o755)) // the marker cannot be written …
	touch(t, filepath.Join(v.file("member"), "x"))
	if err := v.WriteMarker(Marker{ClusterID: "id", Volume: "v1"}); err == nil {
		t.Fatal("it wrote over a directory")
	}
	if p, err := v.Pending(); p == nil || err != nil {
		t.Errorf("… and pending is gone: %v, %v", p, err)
	}
	expect.Must(t, os.RemoveAll(v.file("member")))
	for range 2 { // again is no error
		expect.Must(t, v.WriteMarker(Marker{ClusterID: "id", Volume: "v1", Members: []string{"rabbit@a"}}))
	}
	c, err := v.Inspect()
	if p, perr := v.Pending(); p != nil || perr != nil || err != nil || c.Role != Member || c.Volume != "v1" {
		t.Errorf("%+v, %v; pending %v, %v", c, err, p, perr)
	}
}

// A reader finds the old file or the new one, never a part of either, and a
// failed write leaves nothing.
func TestWriteJSONIsAtomic(t *testing.T) {
	v := testVolume(t)
	path := v.file("member")
	big := Marker{ClusterID: strings.Repeat("x", 200_000)}
	expect.Must(t, writeJSON(path, Marker{ClusterID: "old"}))
	done := make(chan error, 1)
	go func() {
		for range 20 {
			if err := writeJSON(path, big); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		m, err := readJSON[Marker](path)
		if err != nil || m == nil || m.ClusterID != "old" && m.ClusterID != big.ClusterID {
			t.Fatalf("a reader got a part: %v", err)
		}
		select {
		case err := <-done:
			expect.Must(t, err)
			if left, _ := filepath.Glob(filepath.Join(v.State, "*")); !slices.Equal(left, []string{path}) {
				t.Errorf("left: %q", left)
			}
			return
		default:
		}
	}
}

func TestStrangers(t *testing.T) {
	v := testVolume(t)
	base := filepath.Dir(v.Data)
	if got, err := (Dir{filepath.Join(base, "none", "rabbit@a"), ""}).ForeignDatabases(); got != nil || err != nil {
		t.Errorf("no directory yet: %v, %v", got, err)
	}
	for _, path := range []string{
		"rabbit@a/schema.DAT",                        // this node's
		"rabbit@a.aside-20260102T030405/schema.DAT",  // moved aside
		"rabbit@b/coordination/x",                    // never initialised
		"rabbit@b-entrypoint/member", "rabbit@a.pid", // not databases
		"rabbit@a-feature_flags", "notanode/schema.DAT",
	} {
		touch(t, filepath.Join(base, path))
	}
	if got, err := v.ForeignDatabases(); len(got) > 0 || err != nil {
		t.Errorf("%v, %v; want none", got, err)
	}
	touch(t, filepath.Join(base, "rabbit@c/rabbit_serial"))
	touch(t, filepath.Join(base, "rabbit@d/schema.DAT"))
	if got, err := v.ForeignDatabases(); err != nil || !slices.Equal(got, []string{"rabbit@c", "rabbit@d"}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMoveAside(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	v := testVolume(t)
	if to, err := v.moveAside(now); to != "" || err != nil {
		t.Errorf("nothing there: %q, %v", to, err)
	}
	expect.Must(t, os.Mkdir(v.Data, 0o755))
	if to, err := v.moveAside(now); to != "" || err != nil {
		t.Errorf("nothing in it: %q, %v", to, err)
	}
	touch(t, filepath.Join(v.Data, "quorum", "x"))
	to, err := v.moveAside(now)
	if err != nil || filepath.Dir(to) != filepath.Dir(v.Data) {
		t.Fatalf("%q, %v", to, err)
	}
	if _, err := os.Stat(filepath.Join(to, "quorum", "x")); err != nil {
		t.Error("it did not keep what was there:", err)
	}
	if _, err := os.Stat(v.Data); err == nil {
		t.Error("it left the directory")
	}
	// A second time within the same second must lose nothing either.
	touch(t, filepath.Join(v.Data, "quorum", "y"))
	if again, err := v.moveAside(now); err == nil {
		for _, path := range []string{filepath.Join(to, "quorum", "x"), filepath.Join(again, "quorum", "y")} {
			if _, err := os.Stat(path); err != nil {
				t.Error("lost:", err)
			}
		}
	}
}

// The runtime file does not wait for the disk: a crash of the machine may leave it empty.
func TestRuntimeFileOfACrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "runtime.json")
	for _, content := range []string{"", "\x00\x00\x00"} {
		expect.Must(t, os.WriteFile(path, []byte(content), 0o600))
		if rt, err := ReadRuntime(dir); rt != nil || err != nil {
			t.Errorf("%q: %v, %v: it is none", content, rt, err)
		}
	}
	expect.Must(t, os.WriteFile(path, []byte("{"), 0o600))
	if _, err := ReadRuntime(dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("half a file: %v", err)
	}
}

func TestRuntimeFileOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	if rt, err := ReadRuntime(dir); rt != nil || err != nil {
		t.Errorf("none: %v, %v", rt, err)
	}
	cfg, err := config.FromEnvironment(expect.Environ())
	expect.Must(t, err)
	cfg.StateDir = dir
	started, err := StartTime(os.Getpid())
	expect.Must(t, err)
	rt := Runtime{Config: cfg, PID: os.Getpid(), Started: started, Role: Joining, Claim: "c", Volume: "v"}
	expect.Must(t, rt.Write())
	got, err := ReadRuntime(dir)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(rt)
	have, _ := json.Marshal(got)
	if string(want) != string(have) || !got.Alive() {
		t.Errorf("%s, wrote %s", have, want)
	}
	got.Started++
	if got.Alive() {
		t.Error("a later process of that PID is taken for the server")
	}
	if (Runtime{}).Alive() {
		t.Error("the zero value lives")
	}
}

// Only what positively is ends a server: the companion ends with it.
func TestEnded(t *testing.T) {
	started, err := StartTime(os.Getpid())
	expect.Must(t, err)
	child := exec.Command("true")
	expect.Must(t, child.Start())
	dead := child.Process.Pid
	state := func() string {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", dead))
		return string(b)
	}
	expect.Eventually(t, expect.Soon, "a zombie", func() error {
		if s := state(); !strings.Contains(s, ") Z ") {
			return errors.New(s)
		}
		return nil
	})
	was, err := strconv.ParseUint(strings.Fields(state()[strings.LastIndexByte(state(), ')')+1:])[19], 10, 64)
	expect.Must(t, err)
	ended := func(what string, rt Runtime, want bool) {
		t.Helper()
		if got, err := rt.Ended(); got != want || err != nil || rt.Alive() == want {
			t.Errorf("%s: ended %t, %v, alive %t", what, got, err, rt.Alive())
		}
	}
	ended("this process", Runtime{PID: os.Getpid(), Started: started}, false)
	ended("a zombie that nobody reaps", Runtime{PID: dead, Started: was}, true)
	expect.Must(t, child.Wait())
	ended("no such process", Runtime{PID: dead, Started: was}, true)
	ended("another process of that PID", Runtime{PID: os.Getpid(), Started: started - 1}, true)
	ended("none was started", Runtime{}, true)

	for _, c := range []struct {
		stat string
		want uint64
		err  bool
	}{
		{"7 (a) b c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 18 99 20", 99, false},
		{"7 (beam) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 18 99 20", 0, false},
		{"7 (beam) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 9 18 99 20", 99, false}, // execs, or its other threads run
		{"7 (beam) X 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 18 99 20", 0, false},
		{"", 0, true},
		{"7 (beam) S 1 2", 0, true},
		{"7 (beam) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 18 x 20", 0, true},
	} {
		if got, err := startTime(c.stat); got != c.want || (err != nil) != c.err {
			t.Errorf("%q: %d, %v", c.stat, got, err)
		}
	}
}
