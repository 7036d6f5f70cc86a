package lock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/consul/api"
)

// A story tells what a wait is for: each change, and every sayEvery what has not changed.
type story struct {
	log    *slog.Logger
	holder *api.KVPair // who held the key when it was last read
	about  string
	at     time.Time
}

// waitFor tells whom we wait for.
func (s *story) waitFor(holder *api.KVPair) {
	s.holder = holder
	o := owner(holder)
	s.tell(holder.Session, slog.LevelInfo, "waiting for the lock",
		"holder", o.Node, "host", o.Host, "since", o.Since, "session", holder.Session)
}

// free tells why we wait all the same: a free key that we failed to take and that has not changed since is closed.
func (s *story) free(changed bool) {
	s.holder = nil
	if !changed {
		s.tell("closed", slog.LevelInfo, "waiting for the lock: nobody holds it, but a lock delay is running")
	}
}

// retry tells about err and pauses, for the caller to try again; or it returns why there is no use: ctx is done, the
// session is lost, or Consul refuses.
func (s *story) retry(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if Fatal(err) || errors.Is(err, ErrLost) {
		return err
	}
	s.tell("error", slog.LevelWarn, "no answer from Consul to go on with, trying again", "err", err)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(retryAfter):
		return nil
	}
}

func (s *story) tell(about string, level slog.Level, msg string, args ...any) {
	if about == s.about && time.Since(s.at) < sayEvery {
		return
	}
	s.about, s.at = about, time.Now()
	s.log.Log(context.Background(), level, msg, args...)
}

// heldBy completes "acquire KEY" in an error.
func (s *story) heldBy() string {
	if s.holder == nil {
		return ""
	}
	o := owner(s.holder)
	return fmt.Sprintf(" (held by %s on %s since %s)", o.Node, o.Host, o.Since.Format(time.RFC3339))
}

// mostOwner is how long a value at the key can be that this package wrote, and more.
const mostOwner = 4 << 10

// owner reads the value at a held key. One that is not ours to parse is shown as it is, quoted
// and cut short: everybody who may write the key may have written it.
func owner(pair *api.KVPair) Owner {
	var o Owner
	if len(pair.Value) > mostOwner || json.Unmarshal(pair.Value, &o) != nil || o.Node == "" || odd(o.Node) || odd(o.Host) {
		o = Owner{Node: fmt.Sprintf("%.100q", pair.Value)}
	}
	return o
}

// odd reports whether a text is too long for a name, or has characters that are not to be printed.
func odd(name string) bool {
	return len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) })
}
