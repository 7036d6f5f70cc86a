package cluster

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// until is when the last scenario may begin: RMQ_TEST_UNTIL, in seconds since 1970.
var until = func() (end time.Time) {
	if s := os.Getenv("RMQ_TEST_UNTIL"); s != "" {
		seconds, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			panic("RMQ_TEST_UNTIL: " + err.Error())
		}
		end = time.Unix(seconds, 0)
	}
	return end
}()

// parallel has a scenario wait for its turn, and skips it where none is left by then. scripts/test
// tells which those are, so that a run which had no time for them does not look like one that had.
func parallel(t *testing.T) {
	t.Helper()
	t.Parallel()
	if !until.IsZero() && time.Now().After(until) {
		fmt.Printf("NOTE: not run for want of time: %s\n", t.Name())
		t.Skip("no time is left: RMQ_TEST_MINUTES")
	}
}
