package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/entrypoint"
	"rmq-entrypoint/tests/expect"
)

// A unit is a file of systemd: section, setting, values.
type unit map[string]map[string][]string

// What the units set. A name that is misspelt, systemd would leave out with a word in the log.
var unitSettings = map[string]string{
	"Unit":    "Description Documentation Wants After Conflicts StartLimitIntervalSec Requisite PartOf",
	"Install": "WantedBy",
	"Timer":   "OnActiveSec OnUnitInactiveSec AccuracySec",
	"Service": "Type User Group Environment EnvironmentFile StateDirectory StateDirectoryMode LogsDirectory UMask WorkingDirectory ExecStart ExecStop " +
		"KillMode TimeoutStartSec TimeoutStopSec Restart RestartSec RestartPreventExitStatus LimitNOFILE OOMPolicy NoNewPrivileges CapabilityBoundingSet " +
		"AmbientCapabilities ProtectSystem ProtectHome PrivateTmp PrivateDevices ProtectClock ProtectControlGroups ProtectKernelLogs ProtectKernelModules " +
		"ProtectKernelTunables RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestrictSUIDSGID LockPersonality SystemCallArchitectures " +
		"SystemCallFilter StandardOutput StandardError SyslogLevel LogLevelMax",
}

const units = "docs/systemd"

func readUnit(t *testing.T, name string) unit {
	t.Helper()
	u, section := unit{}, ""
	for i, l := range strings.Split(strings.TrimSpace(text(t, filepath.Join(units, name))), "\n") {
		if strings.HasPrefix(l, "#") || l == "" {
			continue
		}
		if s, ok := strings.CutPrefix(l, "["); ok {
			section = strings.TrimSuffix(s, "]")
			u[section] = map[string][]string{}
			continue
		}
		key, value, ok := strings.Cut(l, "=")
		if !ok || !slices.Contains(strings.Fields(unitSettings[section]), key) {
			t.Errorf("%s:%d: section %s has no such setting: %s", name, i+1, section, l)
			continue
		}
		u[section][key] = append(u[section][key], value)
	}
	return u
}

func (u unit) value(section, key string) string { return strings.Join(u[section][key], " ") }

// The units run command lines of ours, as the user that owns the volume, and systemd does with their ends what they mean.
func TestUnits(t *testing.T) {
	at := place{program: built(t), scratch: t.TempDir()}
	node, check, timer := readUnit(t, "rmq-entrypoint.service"), readUnit(t, "rmq-entrypoint-healthcheck.service"), readUnit(t, "rmq-entrypoint-healthcheck.timer")
	for _, u := range []unit{node, check} {
		for _, key := range []string{"ExecStart", "ExecStop"} {
			for _, given := range u["Service"][key] {
				words := strings.Fields(strings.TrimPrefix(given, "-"))
				if words[0] != "/usr/local/bin/rmq-entrypoint" {
					t.Errorf("%s runs %s", key, words[0])
				}
				if err := at.ours(words[1:]); err != nil {
					t.Errorf("%s=%s: %v", key, given, err)
				}
			}
		}
		if u.value("Service", "User") != "rabbitmq" || u.value("Service", "EnvironmentFile") != "/etc/rmq-entrypoint/environment" {
			t.Errorf("a unit runs as %s with %s", u.value("Service", "User"), u.value("Service", "EnvironmentFile"))
		}
	}
	if got, want := node.value("Service", "RestartPreventExitStatus"), strconv.Itoa(entrypoint.Refused); got != want || node.value("Service", "Restart") != "always" {
		t.Errorf("a start that is refused ends with %s, and is not tried again after %s", want, got)
	}
	var cfg config.Config
	config.Settings(&cfg) // which gives it the defaults
	if patience := systemdTime(t, node.value("Service", "TimeoutStopSec")); patience < 2*cfg.StopTimeout {
		t.Errorf("systemd ends a stop after %s, and the companion after %s", patience, cfg.StopTimeout)
	}
	if often := systemdTime(t, timer.value("Timer", "OnUnitInactiveSec")); often > cfg.TTL/2 {
		t.Errorf("a lost companion is missed after %s, and its check lapses after %s", often, cfg.TTL)
	}
	if node.value("Service", "KillMode") != "mixed" || check.value("Service", "KillMode") != "process" || node.value("Service", "Type") != "exec" {
		t.Error("a stop of the unit ends the companion before it has said goodbye, or that of a health check the companion that it started")
	}
	if check.value("Service", "StandardOutput") == "null" && check.value("Service", "StandardError") != "journal" { // which inherits the former
		t.Error("a companion that the health check starts has no log")
	}
	verified(t)
	for key := range node["Service"] { // with which the companion hides from the health check, or Erlang does not start
		if key == "ProtectProc" || key == "MemoryDenyWriteExecute" {
			t.Errorf("%s is set", key)
		}
	}
}

// systemdTime reads a time of systemd's.
func systemdTime(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(strings.Replace(text, "min", "m", 1))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// verified has systemd read the units, where it is here. Another program stands in for what is not installed.
func verified(t *testing.T) {
	t.Helper()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not here: systemd itself did not read the units")
		return
	}
	dir, args := t.TempDir(), []string{"verify", "--man=no"}
	for _, name := range files(t, units) {
		text := strings.ReplaceAll(text(t, name), "/usr/local/bin/rmq-entrypoint", "/bin/true")
		file := filepath.Join(dir, filepath.Base(name))
		expect.Must(t, os.WriteFile(file, []byte(text), 0o644))
		args = append(args, file)
	}
	if len(args) != 5 {
		t.Errorf("there are %d units", len(args)-2)
	}
	if out, err := ran(dir, nil, analyze, args...); err != nil || out != "" {
		t.Errorf("systemd-analyze %q: %v\n%s", args, err, out)
	}
}

// host checks what is typed on a plain host: files that are there, and units.
func (at *place) host(first string, words []string) error {
	unit := func(name string) error {
		if name == "rabbitmq-server" { // the package's
			return nil
		}
		_, err := os.Stat(filepath.Join(root, units, name+".service"))
		return err
	}
	last := words[len(words)-1]
	switch {
	case first == "systemctl" && last == "daemon-reload":
		return nil
	case first == "systemctl" && slices.Contains([]string{"enable", "disable", "restart"}, words[0]), first == "journalctl" && words[0] == "-u":
		return unit(last)
	case first == "sudo" && len(words) > 2 && words[0] == "-u" && words[1] == "rabbitmq":
		return at.inContainer(words[2:])
	case first == "apt-get" && words[0] == "install", first == "apt-mark" && words[0] == "hold":
		if last != "rabbitmq-server" {
			return fmt.Errorf("the package is rabbitmq-server")
		}
		return nil
	case first == "install":
		rest, _, err := optionsOf(words, map[string]bool{"-m": true, "-d": false, "-g": true})
		if err != nil {
			return err
		}
		for _, name := range rest[:len(rest)-1] {
			if strings.Contains(name, "/") {
				if _, err := os.Stat(filepath.Join(root, at.dir, name)); err != nil {
					return err
				}
			}
		}
		if !regexp.MustCompile(`^/(?:usr/local/bin/|etc/systemd/system/|etc/rmq-entrypoint/?)$`).MatchString(rest[len(rest)-1]) {
			return fmt.Errorf("nothing reads %s", rest[len(rest)-1])
		}
		return nil
	}
	return fmt.Errorf("no rule knows %s %s", first, strings.Join(words, " "))
}
