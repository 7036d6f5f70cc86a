package statedir

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/expect"
)

// What lies on the volume is what a program of ours wrote, and then it is written and read as
// the same; or it is damaged, which is said in a line that names the file.
func FuzzFiles(f *testing.F) {
	for _, text := range []string{
		"", "{}", "null", "[]", "\x00", `{"role":"joining","volume":"v","failed":true}`, `{"role":"king","volume":"v"}`, `{"cluster_id":"id","volume":"v","members":["rabbit@a"],"at":"2026-01-02T03:04:05Z","regrow":true}`,
		`{"default":"quorum"}`, `{"default":"\u001b[31m"}`, `{"why":"the node left","again":9223372036854775807,"at":"2026-01-02T03:04:05Z"}`, `{"rabbitmq":"4.3.6","erlang":"27.1","at":"x"}`,
		`{"cluster_id":"id","lost":["rabbit@b"],"forced":true}`, `{"leaving":true,"done":true,"at":"0001-01-01T00:00:00Z"}`, `{"Config":{"TTL":15000000000,"Consul":["a"],"CarryOn":true},"PID":-1,"Started":18446744073709551615,"Version":"4.3.6"}`,
		`{"role":` + strings.Repeat("[", 12000), `{"members":[null]}`, `{"At":"9999-12-31T23:59:59-01:00","Volume":"v","CLUSTER_ID":"id"}`,
	} {
		for _, name := range []string{"pending", "member", "queues", "refused", "version", "carry-on", "out", "runtime.json"} {
			f.Add(name, []byte(text))
		}
	}
	dir := f.TempDir()
	v := Dir{Data: dir + "/rabbit@a", State: dir + "/rabbit@a-entrypoint"}
	for _, d := range []string{v.Data, v.State} {
		if err := os.Mkdir(d, 0o750); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		read := map[string]func() (any, error){
			"pending": func() (any, error) { return v.Pending() }, "member": func() (any, error) { return v.Marker() }, "queues": func() (any, error) { return v.Queues() },
			"refused": func() (any, error) { return v.Refused() }, "version": func() (any, error) { return readJSON[Stamp](v.file("version")) },
			"carry-on": func() (any, error) { return v.CarryOn() }, "out": func() (any, error) { return v.Maintenance() }, "runtime.json": func() (any, error) { return ReadRuntime(v.State) },
		}[name]
		if read == nil {
			return
		}
		expect.Must(t, os.WriteFile(v.file(name), text, 0o640))
		defer os.Remove(v.file(name))
		is, err := read()
		found, ierr := v.Inspect()
		v.LastRan()
		if err != nil {
			if !reflect.ValueOf(is).IsNil() || !strings.Contains(err.Error(), v.file(name)+" is damaged") || expect.Unprintable(err.Error()) || len(err.Error()) > 2000 {
				t.Fatalf("%+v, %q", is, err)
			}
			if (name == "pending" || name == "member" || name == "queues") && (ierr == nil || found.Role != "" && found.Volume != "") {
				t.Fatalf("%s is damaged, and it is %+v, %v", name, found, ierr)
			}
			return
		}
		if ierr != nil {
			t.Fatalf("%s is whole: %v", name, ierr)
		}
		if lost := name == "runtime.json" && len(bytes.Trim(text, "\x00")) == 0; lost { // in a crash of the machine
			if is.(*Runtime) != nil {
				t.Fatalf("%+v was read from %q", is, text)
			}
			return
		}
		if reflect.ValueOf(is).IsNil() {
			if name == "runtime.json" && len(bytes.Trim(text, "\x00")) == 0 { // as a crash of the machine leaves it
				return
			}
			t.Fatalf("%s is there, and was read as nothing", name)
		}
		expect.Must(t, writeJSON(v.file(name), is))
		if again, err := read(); err != nil || !reflect.DeepEqual(again, is) {
			t.Fatalf("%+v was written, %+v was read, %v", is, again, err)
		}
		if rt, ok := is.(*Runtime); ok {
			rt.RabbitMQ()
			if rt.PID <= 0 && rt.Alive() {
				t.Fatal("a process without a number lives")
			}
			_, _ = config.Config{}.Of(rt.Config)
		}
	})
}

// A line of /proc is a start time, the end of a process, or unknown.
func FuzzStartTime(f *testing.F) {
	f.Add("1 (beam.smp) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 33 0 12345 1 2")
	f.Add("1 (a) b) Z 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2")
	f.Add("")
	f.Add(")")
	f.Add("1 (x) S")
	f.Fuzz(func(t *testing.T, stat string) {
		if started, err := startTime(stat); err != nil && started != 0 {
			t.Fatalf("%d, %v", started, err)
		}
	})
}
