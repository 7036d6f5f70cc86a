package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// Replicas are brought back until nothing is left to do; a node that cannot be asked is asked again, ten times.
func TestRegrow(t *testing.T) {
	for _, tc := range []struct {
		name    string
		version string
		answers []string // one a question; "" is none
		left    int      // tries
		says    string
	}{
		{"nothing to do", "4.0.5", []string{"ok"}, 0, ""},
		{"grown", "4.0.5", []string{"queue|queue 'a' in vhost '/'|ok|"}, 0, "queue 'a' in vhost '/'"},
		{"more with the next beat", "4.0.5", []string{"queue|a|ok|\nqueue|b|later|"}, 10, "names=a"},
		{"refused", "4.0.5", []string{"queue|a|{error,timeout}|"}, 9, "quorum queues without a replica here"},
		{"busy", "4.0.5", []string{""}, 9, "cannot look yet"},
		{"3.10 refills, too", "3.10.8", []string{"ok", "queue|a|ok|"}, 0, "names=a"},
		{"3.10, one try for both", "3.10.8", []string{"queue|a|{error,timeout}|", ""}, 9, "cannot look yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			asked := 0
			run := func(context.Context, ...string) (string, error) {
				asked++
				if a := tc.answers[asked-1]; a != "" {
					return a + "\n", nil
				}
				return "", errors.New("no answer")
			}
			c := &companion{log: slog.New(slog.NewTextHandler(&log, nil)), rt: runtimeFile{Version: tc.version}, broker: broker{"a", run}, regrows: 10}
			c.regrow(t.Context())
			if asked != len(tc.answers) || c.regrows != tc.left || !strings.Contains(log.String(), tc.says) || tc.says == "" && log.Len() > 0 {
				t.Errorf("asked %d times, %d tries left: %s", asked, c.regrows, log.String())
			}
			c.regrows = 0
			if c.regrow(t.Context()); asked != len(tc.answers) {
				t.Error("it asks when nothing is left to do")
			}
		})
	}
}
