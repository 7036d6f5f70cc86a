package cluster

import (
	"testing"
	"time"
)

// Blank nodes started at once are one cluster, every time.
func TestBlankNodesAtOnce(t *testing.T) {
	on(t, everywhere, func(c *cluster) {
		sizes := []int{3, 3}
		switch {
		case full:
			sizes = []int{3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 5}
		case c.version == v43:
			sizes = []int{3, 5}
		}
		for _, size := range sizes {
			nodes := c.all(size)
			start(nodes...)
			c.one(nodes...)
			for _, n := range nodes {
				n.wipe()
			}
			c.wipeConsul()
			c.consulReady()
		}
	})
}

var _ = time.Second
