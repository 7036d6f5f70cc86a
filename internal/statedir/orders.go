package statedir

import (
	"time"
)

// CarryOn orders the companion to carry on from this node's copy. It lies on
// the volume, so that a restart in between does not lose it, and goes when the
// order is carried out.
type CarryOn struct {
	ClusterID string   `json:"cluster_id"`
	Lost      []string `json:"lost"`   // members whose data is given up
	Forced    bool     `json:"forced"` // the server was told; it comes up, or is up
}

// Maintenance is the order to take the node out of service: while it lies on the
// volume the companion keeps the check critical. A start removes it. One whose
// command is gone before it was Done was interrupted.
type Maintenance struct {
	Leaving bool      `json:"leaving,omitempty"` // for good
	Drained bool      `json:"drained,omitempty"` // RabbitMQ is in maintenance mode; when it serves again, the order is void
	Done    bool      `json:"done,omitempty"`    // drained, as far as this RabbitMQ can be; or off the record for good
	At      time.Time `json:"at"`
}

func (v Dir) Maintenance() (*Maintenance, error) { return readJSON[Maintenance](v.file("out")) }

func (v Dir) WriteMaintenance(o Maintenance) error { return writeJSON(v.file("out"), o) }

func (v Dir) CarryOn() (*CarryOn, error) { return readJSON[CarryOn](v.file("carry-on")) }

func (v Dir) WriteCarryOn(o CarryOn) error { return writeJSON(v.file("carry-on"), o) }
