// Package rabbittest runs a real RabbitMQ in a container, for tests.
package rabbittest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A RabbitMQ is a node of its own, with guest's login. It goes with the test.
type RabbitMQ struct{ name string }

// Start runs the image that RMQ_TEST_RABBITMQ_IMAGE names, with further flags of docker run, and does not wait for it.
// It skips the test under -short. A process has one at a time.
func Start(t *testing.T, flags ...string) *RabbitMQ {
	t.Helper()
	image := image(t)
	m := &RabbitMQ{container()}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("docker", "logs", "--tail", "60", m.name).CombinedOutput()
			t.Logf("%s", out)
		}
		exec.Command("docker", "rm", "-fv", m.name).Run()
	})
	run := append([]string{"run", "-d", "--name", m.name, "--hostname", "node1", "--entrypoint", "docker-entrypoint.sh"}, flags...)
	docker(t, append(run, image, "rabbitmq-server")...)
	return m
}

// Run runs a program of that image in a container of its own, without RabbitMQ, and returns what it said. It skips the
// test as [Start] does.
func Run(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	run := []string{"run", "--rm", "--name", container(), "--entrypoint", program, image(t)}
	out, err := exec.Command("docker", append(run, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func image(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a container")
	}
	name := os.Getenv("RMQ_TEST_RABBITMQ_IMAGE")
	if name == "" {
		t.Fatal("RMQ_TEST_RABBITMQ_IMAGE is not set: name an image with RabbitMQ and its management plugin, or run with -short")
	}
	return name
}

// container is the name of this process's container, by which scripts/test removes what is left of one.
func container() string { return fmt.Sprintf("rmq-entrypoint-rabbittest-%d", os.Getpid()) }

// Docker runs a docker command on the container, as {"stop", "-t", "60"}, and returns what it said.
func (m *RabbitMQ) Docker(t *testing.T, args ...string) string {
	t.Helper()
	return docker(t, append(args, m.name)...)
}

// Exec runs a command in the container and returns what it said.
func (m *RabbitMQ) Exec(t *testing.T, args ...string) string {
	t.Helper()
	return docker(t, append([]string{"exec", m.name}, args...)...)
}

// TryExec is Exec for a command that may fail: what it said, and the error.
func (m *RabbitMQ) TryExec(args ...string) (string, error) {
	out, err := exec.Command("docker", append([]string{"exec", m.name}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Command is TryExec, not started yet, with what it reads.
func (m *RabbitMQ) Command(args ...string) *exec.Cmd {
	return exec.Command("docker", append([]string{"exec", "-i", m.name}, args...)...)
}

// Logs is what the container has printed.
func (m *RabbitMQ) Logs() string {
	out, _ := exec.Command("docker", "logs", m.name).CombinedOutput()
	return string(out)
}

// IP is the container's address on Docker's bridge. Another start may change it.
func (m *RabbitMQ) IP(t *testing.T) string {
	t.Helper()
	return m.Docker(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// Until asks every 50 ms, for five minutes at most: a node boots slowly on a busy machine. What ok says it saw is for
// the failure.
func Until(t *testing.T, what string, ok func() (saw any, done bool)) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Minute); ; <-tick.C {
		saw, done := ok()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within five minutes: %s: %+v", what, saw)
		}
	}
}
