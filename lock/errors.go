package lock

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"
)

// ErrLost means that the session is gone, or can no longer be assumed alive, and the key with it.
var ErrLost = errors.New("lock lost")

// ErrHeld means that others have held the lock for as long as [Options].Patience.
var ErrHeld = errors.New("held by others")

// A RefusedError is Consul's considered no: asking again changes nothing. Everything else that Consul or the network
// may answer (5xx, no leader, too many requests, refused connections, timeouts) is worth another try.
type RefusedError struct {
	Doing string // what was tried
	Right string // the ACL rule that the token lacks, as "session:write"; empty if Consul refused for another reason
	Err   error  // Consul's words
}

func (e *RefusedError) Error() string {
	if e.Right == "" {
		return fmt.Sprintf("%s: refused by Consul: %v", e.Doing, e.Err)
	}
	return fmt.Sprintf("%s: the Consul token lacks %s (or is unknown to Consul): %v", e.Doing, e.Right, e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// Fatal reports whether trying again is no use, because Consul refused.
func Fatal(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused)
}

// judge gives err, which Consul or the network answered to doing something that takes right, its place in the taxonomy.
func judge(err error, doing, right string) error {
	if err == nil {
		return nil
	}
	var status api.StatusError
	errors.As(err, &status)
	switch code := status.Code; {
	case strings.Contains(err.Error(), "invalid session"): // a 500, as far as Consul is concerned
		return fmt.Errorf("%s: %w: the session is gone", doing, ErrLost)
	case code == http.StatusForbidden, code == http.StatusUnauthorized,
		strings.HasSuffix(err.Error(), "response code: 403"): // api.Session.Renew gives no StatusError
		return &RefusedError{Doing: doing, Right: right, Err: err}
	case code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout:
		return &RefusedError{Doing: doing, Err: err}
	}
	return fmt.Errorf("%s: %w", doing, err)
}
