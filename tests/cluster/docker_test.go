package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

func (c *cluster) docker(args ...string) string {
	c.Helper()
	out, err := try(args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// try runs docker. At the moment at which a process with several threads becomes another program, as the entrypoint becomes
// the server, its first thread is gone, and runc takes its container for stopped.
func try(args ...string) (out string, err error) {
	for range 5 {
		if out, err = once(args...); err == nil || args[0] != "exec" || !strings.Contains(err.Error(), "cannot exec in a stopped container") {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	return out, err
}

// once runs docker, for at most two minutes and a bit: the grace of a stop.
func once(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), slow(150*time.Second))
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("docker %s: %w: %s%s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()), strings.TrimSpace(stdout.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}
