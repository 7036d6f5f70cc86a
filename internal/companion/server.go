package companion

import (
	"cmp"
	"context"
	"strings"
	"time"
)

// hear tells what a message of the notify protocol means now. While booting,
// STATUS is progress; once the server was ready, it is the first word of a stop.
func (c *Companion) hear(text string) (ready, stopping bool, word string) {
	for line := range strings.Lines(text) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); {
		case key == "READY" && value == "1":
			ready = true
		case key == "STOPPING" && value == "1":
			stopping = true
		case key == "STATUS" && c.serving:
			stopping = true
			if !strings.HasPrefix(value, "Startup") { // a server that stops goes through its boot's words backwards
				word = value
			}
		case key == "STATUS":
			word = value
		}
	}
	if stopping {
		word = cmp.Or(word, "stopping")
	}
	return ready, stopping && !ready, cmp.Or(word, c.booted)
}

// stopped withdraws the node: docker stop, stop_app, a pause in a minority and
// our own explicit join all look the same. READY brings it back.
func (c *Companion) stopped(ctx context.Context, word string) {
	served := c.verified
	c.serving, c.verified, c.booted = false, false, "stopped ("+word+")"
	c.joinedBy = time.Now().Add(c.rt.Config.JoinTimeout)
	if !c.withdrawn {
		c.withdraw(ctx, word)
	}
	if served {
		if err := c.mark(); err != nil { // until now
			c.log.Warn("cannot write the marker", "err", err)
		}
	}
}

// word is what a node says of itself while RabbitMQ does not run.
func (c *Companion) word() string {
	if c.rejoining != "" {
		return c.rejoining + ": " + c.booted
	}
	return c.booted
}
