package rabbitconf

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Version is a version of RabbitMQ.
type Version struct{ Major, Minor, Patch int }

var version = regexp.MustCompile(`^(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[-+~.][A-Za-z0-9.+~-]*)?$`)

// ParseVersion reads 4.3.6 and also what packages and release candidates add:
// 4.0.5-1, 4.1.0-rc.1.
func ParseVersion(s string) (Version, error) {
	m := version.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return Version{}, fmt.Errorf("parse RabbitMQ version %q: it is not like 4.3.6", s)
	}
	var v Version
	v.Major, _ = strconv.Atoi(m[1])
	v.Minor, _ = strconv.Atoi(m[2])
	v.Patch, _ = strconv.Atoi(m[3])
	return v, nil
}

// AtLeast reports whether v is major.minor or later.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// What differs by version. The zero Version, which is not known, is taken for an early one.

// DelaysStart reports whether a node waits at random before it founds or joins a cluster:
// 3.8.9 waits 5 to 60 s, 3.10.8 does not. A version between them that does not know the key
// which turns it off ignores that.
func (v Version) DelaysStart() bool { return !v.AtLeast(3, 10) }

// Mirrors reports whether a policy mirrors classic queues to other nodes. From 4.0 on none
// does, and queues are quorum queues unless they say otherwise.
func (v Version) Mirrors() bool { return !v.AtLeast(4, 0) }

// ForgetsFirst reports whether a wiped node is refused under its old name until the cluster
// forgot it: 3.13 to 4.2 (measured on 4.0.5); older ones and 4.3 let it in.
func (v Version) ForgetsFirst() bool { return v.AtLeast(3, 13) && !v.AtLeast(4, 3) }

// RefillsReplicas reports whether a wiped node's replicas of quorum queues fill by
// themselves. On 3.10 they stay empty for good.
func (v Version) RefillsReplicas() bool { return v.AtLeast(3, 13) }

// ShrinksQuorumQueues reports whether all quorum queues can be shrunk to the replicas on
// one node, with no majority of the others. 3.10 has no such function.
func (v Version) ShrinksQuorumQueues() bool { return v.AtLeast(3, 13) }

// KhepriOnly reports whether members decide by majority and can do nothing else: there is
// no Mnesia, and so no handling of its partitions. In 4.2 Khepri is a feature flag.
func (v Version) KhepriOnly() bool { return v.AtLeast(4, 3) }
