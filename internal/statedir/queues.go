package statedir

import (
	"fmt"
	"slices"
)

// Types that queues have by default, of those that say none.
const (
	Quorum  = "quorum"
	Classic = "classic"
	Adopted = "adopted" // classic, in a cluster that another program founded: its queues are left as they are
)

// Queues is what the program has decided about queues for the cluster of this volume. It
// lies on the volume, as a node with data starts without Consul.
type Queues struct {
	Default string `json:"default"` // Quorum, Classic or Adopted
}

// Queues returns what was decided; nil: nothing yet.
func (v Dir) Queues() (q *Queues, err error) {
	q, err = readJSON[Queues](v.file("queues"))
	if q != nil && !slices.Contains([]string{Quorum, Classic, Adopted}, q.Default) {
		return nil, damaged(v.file("queues"), fmt.Errorf("default %.30q", q.Default))
	}
	return q, err
}

func (v Dir) WriteQueues(q Queues) error { return writeJSON(v.file("queues"), q) }
