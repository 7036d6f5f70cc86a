package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func testVolume(t *testing.T) volume {
	t.Helper()
	base := t.TempDir()
	v := volume{data: filepath.Join(base, "rabbit@a"), state: filepath.Join(base, "rabbit@a-entrypoint")}
	must(t, os.Mkdir(v.state, 0o755))
	return v
}

func touch(t *testing.T, path string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, nil, 0o644))
}

// Every combination of RabbitMQ's directory, marker and pending file.
func TestInspect(t *testing.T) {
	marker := &memberFile{ClusterID: "id", Volume: "vm", Members: []string{"rabbit@a", "rabbit@b"}}
	asMember := condition{role: member, volume: "vm", cluster: "id", members: marker.Members}
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
		for _, m := range []*memberFile{nil, marker} {
			for _, as := range []role{"", seeding, joining, alone} {
				v := testVolume(t)
				if dir.files != nil {
					must(t, os.Mkdir(v.data, 0o755))
				}
				for _, f := range dir.files {
					touch(t, filepath.Join(v.data, f))
				}
				if m != nil {
					must(t, writeJSON(v.file("member"), m))
				}
				if as != "" {
					must(t, v.writePending(pendingFile{Role: as, Claim: "c", Volume: "vp"}))
				}

				var want condition
				switch {
				case m != nil && !dir.empty: // the marker wins over pending, and over not knowing the files
					want = asMember
				case as == "" && dir.database: // an adopted volume
					want = condition{role: member}
				case as == "":
					want = condition{}
				case dir.database && as != alone: // start at once in the same role
					want = condition{role: as, volume: "vp", claim: "c"}
				default: // blank, but whose it is and what was under way is known
					want = condition{volume: "vp", claim: "c", alone: dir.database, joining: as == joining}
				}
				want.lost = m != nil && dir.empty

				got, err := v.inspect()
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s, marker %v, pending %q: %+v, %v; want %+v", dir.name, m != nil, as, got, err, want)
				}
			}
		}
	}
}

// What cannot be read is an error, never "blank".
func TestInspectDoesNotGuess(t *testing.T) {
	for name, spoil := range map[string]func(v volume) string{
		"pending damaged":        func(v volume) string { return v.file("pending") },
		"marker damaged":         func(v volume) string { return v.file("member") },
		"pending is a directory": func(v volume) string { return "" },
	} {
		v := testVolume(t)
		if path := spoil(v); path != "" {
			must(t, os.WriteFile(path, []byte(`{"role":"join`), 0o644))
			_, err := v.inspect()
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "remove it") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		must(t, os.Mkdir(v.file("pending"), 0o755))
		if c, err := v.inspect(); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
	// RabbitMQ's directory cannot be looked into.
	v := testVolume(t)
	touch(t, v.data) // a file in its place
	if c, err := v.inspect(); err == nil {
		t.Errorf("a file in place of the directory: %+v", c)
	}
	// An empty file, as a crash of another program's write would leave it.
	v = testVolume(t)
	touch(t, v.file("member"))
	if c, err := v.inspect(); err == nil {
		t.Errorf("an empty marker: %+v", c)
	}
}

// A join that came to nothing is no join under way; with a database it may have come
// to something.
func TestInspectFailedJoin(t *testing.T) {
	v := testVolume(t)
	must(t, v.writePending(pendingFile{Role: joining, Claim: "c", Volume: "vp", Failed: true}))
	if c, err := v.inspect(); err != nil || !reflect.DeepEqual(c, condition{volume: "vp", claim: "c", failed: true}) {
		t.Errorf("%+v, %v", c, err)
	}
	marked := testVolume(t) // a member once
	must(t, writeJSON(marked.file("member"), memberFile{ClusterID: "id", Volume: "vm"}))
	must(t, marked.writePending(pendingFile{Role: joining, Claim: "c", Volume: "vp", Failed: true}))
	if c, err := marked.inspect(); err != nil || c.failed || !c.lost {
		t.Errorf("with a marker: %+v, %v", c, err)
	}
	touch(t, filepath.Join(v.data, "rabbit_serial"))
	if c, err := v.inspect(); err != nil || !reflect.DeepEqual(c, condition{role: joining, volume: "vp", claim: "c"}) {
		t.Errorf("with a database: %+v, %v", c, err)
	}
}

// First the marker, then pending goes: a crash in between leaves a member.
func TestWriteMember(t *testing.T) {
	v := testVolume(t)
	touch(t, filepath.Join(v.data, "schema.DAT"))
	must(t, v.writePending(pendingFile{Role: joining, Volume: "v1"}))
	must(t, os.Mkdir(v.file("member"), 0o755)) // the marker cannot be written …
	touch(t, filepath.Join(v.file("member"), "x"))
	if err := v.writeMember(memberFile{ClusterID: "id", Volume: "v1"}); err == nil {
		t.Fatal("it wrote over a directory")
	}
	if p, err := v.pending(); p == nil || err != nil {
		t.Errorf("… and pending is gone: %v, %v", p, err)
	}
	must(t, os.RemoveAll(v.file("member")))
	for range 2 { // again is no error
		must(t, v.writeMember(memberFile{ClusterID: "id", Volume: "v1", Members: []string{"rabbit@a"}}))
	}
	c, err := v.inspect()
	if p, perr := v.pending(); p != nil || perr != nil || err != nil || c.role != member || c.volume != "v1" {
		t.Errorf("%+v, %v; pending %v, %v", c, err, p, perr)
	}
}

// A reader finds the old file or the new one, never a part of either, and a
// failed write leaves nothing.
func TestWriteJSONIsAtomic(t *testing.T) {
	v := testVolume(t)
	path := v.file("member")
	big := memberFile{ClusterID: strings.Repeat("x", 200_000)}
	must(t, writeJSON(path, memberFile{ClusterID: "old"}))
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
		m, err := readJSON[memberFile](path)
		if err != nil || m == nil || m.ClusterID != "old" && m.ClusterID != big.ClusterID {
			t.Fatalf("a reader got a part: %v", err)
		}
		select {
		case err := <-done:
			must(t, err)
			if left, _ := filepath.Glob(filepath.Join(v.state, "*")); !slices.Equal(left, []string{path}) {
				t.Errorf("left: %q", left)
			}
			return
		default:
		}
	}
}

func TestStrangers(t *testing.T) {
	v := testVolume(t)
	base := filepath.Dir(v.data)
	if got, err := (volume{filepath.Join(base, "none", "rabbit@a"), ""}).strangers(); got != nil || err != nil {
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
	if got, err := v.strangers(); len(got) > 0 || err != nil {
		t.Errorf("%v, %v; want none", got, err)
	}
	touch(t, filepath.Join(base, "rabbit@c/rabbit_serial"))
	touch(t, filepath.Join(base, "rabbit@d/schema.DAT"))
	if got, err := v.strangers(); err != nil || !slices.Equal(got, []string{"rabbit@c", "rabbit@d"}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMoveAside(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	v := testVolume(t)
	if to, err := v.moveAside(now); to != "" || err != nil {
		t.Errorf("nothing there: %q, %v", to, err)
	}
	must(t, os.Mkdir(v.data, 0o755))
	if to, err := v.moveAside(now); to != "" || err != nil {
		t.Errorf("nothing in it: %q, %v", to, err)
	}
	touch(t, filepath.Join(v.data, "quorum", "x"))
	to, err := v.moveAside(now)
	if err != nil || filepath.Dir(to) != filepath.Dir(v.data) {
		t.Fatalf("%q, %v", to, err)
	}
	if _, err := os.Stat(filepath.Join(to, "quorum", "x")); err != nil {
		t.Error("it did not keep what was there:", err)
	}
	if _, err := os.Stat(v.data); err == nil {
		t.Error("it left the directory")
	}
	// A second time within the same second must lose nothing either.
	touch(t, filepath.Join(v.data, "quorum", "y"))
	if again, err := v.moveAside(now); err == nil {
		for _, path := range []string{filepath.Join(to, "quorum", "x"), filepath.Join(again, "quorum", "y")} {
			if _, err := os.Stat(path); err != nil {
				t.Error("lost:", err)
			}
		}
	}
}

func TestRuntimeFileOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	if rt, err := readRuntime(dir); rt != nil || err != nil {
		t.Errorf("none: %v, %v", rt, err)
	}
	cfg, err := fromEnvironment(environ())
	must(t, err)
	cfg.StateDir = dir
	rt := runtimeFile{Config: cfg, PID: os.Getpid(), Started: startTime(os.Getpid()), Role: joining, Claim: "c", Volume: "v"}
	must(t, rt.write())
	got, err := readRuntime(dir)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(rt)
	have, _ := json.Marshal(got)
	if string(want) != string(have) || !got.alive() {
		t.Errorf("%s, wrote %s", have, want)
	}
	got.Started++
	if got.alive() {
		t.Error("a later process of that PID is taken for the server")
	}
	if (runtimeFile{}).alive() {
		t.Error("the zero value lives")
	}
}
