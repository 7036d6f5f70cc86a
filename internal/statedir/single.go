package statedir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Single says that the data on this volume are a lone broker's. It is written before its server's
// first start, and stays: who removes the file says that a cluster may have the data.
type Single struct {
	Volume string    `json:"volume,omitempty"` // a random name given to this volume; "": by hand, none yet
	Since  time.Time `json:"since,omitzero"`
}

func (v Dir) Single() (*Single, error) { return readJSON[Single](v.file("single")) }

func (v Dir) WriteSingle(s Single) error { return writeJSON(v.file("single"), s) }

// nodeName is a node's name as RabbitMQ writes it into its own files.
var nodeName = regexp.MustCompile(`[A-Za-z0-9_-]+@[A-Za-z0-9._-]+`)

// Cluster returns the nodes that RabbitMQ itself lists as its cluster's. It is for a volume that no
// mark of ours says anything of. RabbitMQ keeps such a list on Mnesia alone. On Khepri the members
// are not known: what was listed before the volume went over to it may be too few.
func (v Dir) Cluster() (nodes []string, known bool, err error) {
	for _, name := range []string{"cluster_nodes.config", "nodes_running_at_shutdown"} {
		b, err := os.ReadFile(filepath.Join(v.Data, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		found := nodeName.FindAllString(string(b), -1)
		known = known || len(found) > 0
		nodes = append(nodes, found...)
	}
	khepri, err := v.Khepri()
	slices.Sort(nodes)
	return slices.Compact(nodes), known && err == nil && !khepri, nil
}

// Khepri reports whether RabbitMQ keeps its metadata here in Khepri; an error means unknown.
func (v Dir) Khepri() (bool, error) {
	flags, err := os.ReadFile(v.Data + "-feature_flags")
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return strings.Contains(string(flags), "khepri_db"), err
}
