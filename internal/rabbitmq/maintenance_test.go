package rabbitmq

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// Where RabbitMQ does not hear it, the server gets a SIGTERM, and nobody else does.
func TestHalt(t *testing.T) {
	deaf := CLI{Node: "a", Run: func(context.Context, ...string) (string, error) { return "", errors.New("no answer") }}
	for name, halt := range map[string]func(context.Context, int) error{"Halt": deaf.Halt, "HaltSoon": deaf.HaltSoon} {
		for _, none := range []int{0, -1} {
			if err := halt(t.Context(), none); err == nil {
				t.Errorf("%s of process %d is no error", name, none)
			}
		}
		server := exec.Command("sleep", "60")
		expect.Must(t, server.Start())
		expect.Must(t, halt(t.Context(), server.Process.Pid))
		err := server.Wait()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
			t.Errorf("%s: %v", name, err)
		}
	}
}
