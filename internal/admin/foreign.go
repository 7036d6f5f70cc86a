package admin

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// aServer returns the pid of a RabbitMQ server that runs in this container, 0 if there is
// none: an Erlang VM whose command line boots rabbit, as RabbitMQ's script has had it since
// 3.8. Programs of RabbitMQ's command line are VMs, too, and do not. One of a container
// within this one is not meant.
func aServer() (pid int) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		argv, err := os.ReadFile(path)
		if err != nil { // gone meanwhile
			continue
		}
		vm, _, _ := bytes.Cut(argv, []byte{0})
		if !strings.HasPrefix(filepath.Base(string(vm)), "beam") || !bytes.Contains(argv, []byte("\x00-s\x00rabbit\x00boot\x00")) {
			continue
		}
		if status, err := os.ReadFile(filepath.Join(filepath.Dir(path), "status")); err != nil || inner(string(status)) {
			continue
		}
		if pid, err = strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			return pid
		}
	}
	return 0
}

// inner reports whether a process has a pid in a namespace below this one, by its status file.
func inner(status string) bool {
	for line := range strings.Lines(status) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return len(strings.Fields(pids)) > 1
		}
	}
	return false
}
