package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

var (
	errHangs     = errors.New("reading the volume does not come to an end")
	errNoConsul  = errors.New("no Consul answers")
	errNotListed = errors.New("epmd does not list the node: its RabbitMQ does not run")
)

// notes keeps what a start would log as a warning, as lines for people.
type notes struct{ all []string }

func (n *notes) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (n *notes) Handle(_ context.Context, r slog.Record) error {
	var with []string
	r.Attrs(func(a slog.Attr) bool { with = append(with, fmt.Sprintf("%s %v", a.Key, a.Value)); return true })
	line := r.Message
	if len(with) > 0 {
		line += " (" + strings.Join(with, ", ") + ")"
	}
	n.all = append(n.all, line)
	return nil
}

func (n *notes) WithAttrs([]slog.Attr) slog.Handler { return n }

func (n *notes) WithGroup(string) slog.Handler { return n }
