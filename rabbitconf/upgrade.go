package rabbitconf

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
)

// A series is what RabbitMQ says of taking a volume to a release series, and of running
// nodes of two of them side by side.
type series struct {
	minor Version   // its first version
	from  []Version // the series that it takes volumes of, each from that version on

	// beside is the first version of the series before it that its nodes run beside, where
	// that is another than the one it takes volumes of.
	beside Version

	// requires are the feature flags of the core that must be enabled before, beyond those
	// that the series before it required. What a plugin requires depends on which are enabled.
	requires []string
}

// upgrades is every upgrade that RabbitMQ supports, oldest first. Nodes of two series
// run side by side only while one takes the volumes of the other: that is what a rolling
// upgrade is. Downgrades are supported nowhere.
//
// Sources: "Release Series Upgradeability" in rabbitmq.com/docs/upgrade; for what runs
// side by side, and for required flags, the release notes of each first version; for the
// names of the flags, rabbit_core_ff.erl as of the tags from v3.8.10 to v4.3.5, and
// list_feature_flags of 3.10.8, 4.0.5 and 4.3.6.
var upgrades = []series{
	{minor: Version{3, 8, 0}, from: []Version{{3, 7, 18}}},
	{minor: Version{3, 9, 0}, from: []Version{{3, 8, 0}}},
	{minor: Version{3, 10, 0}, from: []Version{{3, 9, 0}}},
	{minor: Version{3, 11, 0}, from: []Version{{3, 10, 0}}, requires: []string{
		"quorum_queue", "implicit_default_bindings", "virtual_host_metadata", "maintenance_mode_status", "user_limits",
	}},
	{minor: Version{3, 12, 0}, from: []Version{{3, 11, 18}}, beside: Version{3, 11, 17}, requires: []string{
		"stream_queue", "classic_mirrored_queue_version", "classic_queue_type_delivery_support", "stream_single_active_consumer",
		"feature_flags_v2", "direct_exchange_routing_v2", "listener_records_in_ets", "tracking_records_in_ets",
	}},
	{minor: Version{3, 13, 0}, from: []Version{{3, 12, 0}}},
	{minor: Version{4, 0, 0}, from: []Version{{3, 13, 0}}, requires: []string{
		"restart_streams", "stream_sac_coordinator_unblock_group", "stream_filtering", "stream_update_config_command", "message_containers",
	}},
	{minor: Version{4, 1, 0}, from: []Version{{3, 13, 0}, {4, 0, 0}}},
	{minor: Version{4, 2, 0}, from: []Version{{3, 13, 0}, {4, 0, 0}, {4, 1, 0}}},
	{minor: Version{4, 3, 0}, from: []Version{{4, 2, 0}}, requires: []string{
		"quorum_queue_non_voters", "message_containers_deaths_v2", "rabbitmq_4.0.0", "rabbitmq_4.1.0", "rabbitmq_4.2.0", khepriFlag,
	}},
}

// khepriFlag moves the metadata from Mnesia into Khepri.
const khepriFlag = "khepri_db"

// introduced are the first versions that know a flag, whatever series they are of: the
// sources are those of [upgrades]. Flags named rabbitmq_X.Y.Z say it themselves, and are
// not in it.
var introduced = map[string]Version{
	"quorum_queue": {3, 8, 0}, "implicit_default_bindings": {3, 8, 0}, "virtual_host_metadata": {3, 8, 0},
	"maintenance_mode_status": {3, 8, 8}, "user_limits": {3, 8, 10},
	"empty_basic_get_metric": {3, 8, 10}, "drop_unroutable_metric": {3, 8, 10},
	"stream_queue":                             {3, 9, 0},
	"classic_mirrored_queue_version":           {3, 10, 0},
	"classic_queue_type_delivery_support":      {3, 10, 9},
	"stream_single_active_consumer":            {3, 11, 0},
	"feature_flags_v2":                         {3, 11, 0},
	"direct_exchange_routing_v2":               {3, 11, 0},
	"listener_records_in_ets":                  {3, 11, 0},
	"tracking_records_in_ets":                  {3, 11, 0},
	"stream_sac_coordinator_unblock_group":     {3, 11, 14},
	"restart_streams":                          {3, 12, 0},
	"delete_ra_cluster_mqtt_node":              {3, 12, 0},
	"stream_filtering":                         {3, 13, 0},
	"stream_update_config_command":             {3, 13, 0},
	"message_containers":                       {3, 13, 0},
	"detailed_queues_endpoint":                 {3, 13, 0},
	"mqtt_v5":                                  {3, 13, 0},
	khepriFlag:                                 {3, 13, 0},
	"quorum_queue_non_voters":                  {3, 13, 1},
	"message_containers_deaths_v2":             {3, 13, 3},
	"track_qq_members_uids":                    {4, 3, 0},
	"tie_binding_to_dest_with_keep_while_cond": {4, 3, 0},
	"topic_binding_projection_v4":              {4, 3, 0},
	"topic_binding_projection_v5":              {4, 3, 1},
}

// Compare returns -1, 0 or 1 as v is older than, the same as or newer than w.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

// Series is the release series as people write it: 4.3.
func (v Version) Series() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

func (v Version) sameSeries(w Version) bool { return v.Major == w.Major && v.Minor == w.Minor }

// A Verdict is what RabbitMQ's documentation says of two versions. What it does not
// speak of is unknown, which is never a no.
type Verdict int

const (
	Unknown     Verdict = iota
	Supported           // by RabbitMQ
	Unsupported         // by RabbitMQ
)

func known(v Version) *series {
	i := slices.IndexFunc(upgrades, func(s series) bool { return s.minor.sameSeries(v) })
	if i < 0 {
		return nil
	}
	return &upgrades[i]
}

// newest is the newest series there is a row for.
func newest() Version { return upgrades[len(upgrades)-1].minor }

// Upgrade says whether a server of version to takes a volume on which from ran last.
// Within a series any later patch release does; an earlier version never does: "RabbitMQ
// does not officially support downgrades", patch releases included, of which some "could
// not be downgraded even to the immediately preceding" one.
func Upgrade(from, to Version) Verdict {
	switch {
	case from.Compare(to) > 0:
		return Unsupported
	case from.sameSeries(to):
		return Supported
	}
	return steps(from, to, func(_ *series, f Version) Version { return f })
}

// Mix says whether nodes of the two versions run in one cluster. Of one series they do,
// whatever the patch release: else no node could be upgraded while others run.
func Mix(a, b Version) Verdict {
	if a.sameSeries(b) {
		return Supported
	}
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	return steps(a, b, func(s *series, f Version) Version {
		if s.beside.sameSeries(f) {
			return s.beside
		}
		return f
	})
}

// steps looks the pair up. A series that is newer than the table is unknown, but what
// cannot even become, or run beside, the newest one that is known is not taken by a later
// one: a flag that was required once stays so.
func steps(from, to Version, least func(s *series, f Version) Version) Verdict {
	s := known(to)
	if s == nil {
		if !to.AtLeast(newest().Major, newest().Minor) || from.AtLeast(newest().Major, newest().Minor) {
			return Unknown
		}
		if steps(from, newest(), least) == Unsupported {
			return Unsupported
		}
		return Unknown
	}
	for _, f := range s.from {
		if f.sameSeries(from) && from.Compare(least(s, f)) >= 0 {
			return Supported
		}
	}
	return Unsupported
}

// Path returns the shortest way from one version to the other, each step the least
// version to go to, to itself at the end. It is nil where the table knows none.
func Path(from, to Version) []Version {
	goal := known(to)
	if goal == nil {
		return nil
	}
	if goal.minor.sameSeries(from) {
		return []Version{to}
	}
	var best []Version
	for _, f := range goal.from {
		var way []Version
		switch {
		case f.sameSeries(from) && from.Compare(f) >= 0:
			way = []Version{to}
		case f.sameSeries(from):
			way = []Version{f, to}
		default:
			if way = Path(from, f); way == nil {
				continue
			}
			way = append(way, to)
		}
		if best == nil || len(way) < len(best) {
			best = way
		}
	}
	return best
}

// Missing returns the flags that to requires and that are not enabled, in the order in
// which they became required. A series newer than the table requires what the newest does.
func Missing(enabled []string, to Version) (missing []string) {
	for _, s := range upgrades {
		if to.Compare(s.minor) < 0 {
			break
		}
		for _, flag := range s.requires {
			if !slices.Contains(enabled, flag) {
				missing = append(missing, flag)
			}
		}
	}
	return missing
}

// AtLeast returns the oldest version that may have enabled these flags. New flags stay
// disabled when a node is upgraded, so a later one may have run: it is a bound, and it is
// the very series where a cluster was founded on it. The zero version: they do not tell.
func AtLeast(enabled []string) (least Version) {
	for _, flag := range enabled {
		v := introduced[flag]
		if text, ok := strings.CutPrefix(flag, "rabbitmq_"); ok {
			v, _ = ParseVersion(text)
		}
		if v.Compare(least) > 0 {
			least = v
		}
	}
	return least
}

// ReadFlags reads the feature flags that RabbitMQ wrote down as enabled, from the file
// <node>-feature_flags beside its directory: a list of atoms, on 3.8 to 4.3 alike.
func ReadFlags(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	terms, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	list, ok := List(nil), false
	if len(terms) == 1 {
		list, ok = terms[0].(List)
	}
	if !ok {
		return nil, fmt.Errorf("read %s: it is no list of feature flags", path)
	}
	flags := []string{}
	for _, t := range list {
		flag, ok := t.(Atom)
		if !ok {
			return nil, fmt.Errorf("read %s: it is no list of feature flags", path)
		}
		flags = append(flags, string(flag))
	}
	return flags, nil
}

// A Jump is what there is to say of starting a version on a volume.
type Jump struct {
	To      Version
	From    Version // what ran last; zero: nothing tells
	Bound   bool    // that is a bound: it or a later one did
	Verdict Verdict

	Down    bool      // it is a downgrade
	Store   bool      // the volume is in Khepri as 3.13 had it, which no later version reads
	Missing []string  // flags that To requires and that are not enabled, from Verdict Unsupported
	Path    []Version // from From to To, To included; nil: there is none
}

// Judge says whether a server of version to may start on a volume on which last is known
// to have run (zero: it is not known), where flags are enabled (nil: not known). Where
// the flags are those of a later version than last, they win: something else ran there.
func Judge(last Version, flags []string, to Version) Jump {
	j := Jump{To: to, From: last}
	if least := AtLeast(flags); least.Compare(last) > 0 {
		j.From, j.Bound = least, true
	}
	if j.From == (Version{}) {
		return j
	}
	j.Path = Path(j.From, to)
	switch {
	case j.From.Compare(to) > 0:
		j.Down, j.Verdict, j.Path = true, Unsupported, nil
		return j
	case j.From.sameSeries(to): // what it requires was asked of it when it came here
		j.Verdict = Supported
		return j
	}
	if j.Bound { // what ran last may be a step or two further
		j.Verdict = Unknown
	} else {
		j.Verdict = Upgrade(j.From, to)
	}
	// "RabbitMQ 3.13 with Khepri enabled cannot be upgraded to 4.x."
	if !j.Bound && j.From.sameSeries(Version{3, 13, 0}) && slices.Contains(flags, khepriFlag) {
		j.Verdict, j.Store, j.Path = Unsupported, true, nil
		return j
	}
	if flags != nil {
		j.Missing = Missing(flags, to)
		if len(j.Missing) > 0 {
			j.Verdict = Unsupported
		}
	}
	return j
}

// Least writes a version to go to: 4.2, or 3.11 (3.11.18 or later).
func Least(v Version) string {
	if v.Patch == 0 {
		return v.Series()
	}
	return fmt.Sprintf("%s (%s or later)", v.Series(), v)
}

// Froms lists what a version takes volumes of, for people: 4.2, or 3.13, 4.0, 4.1. It is
// empty where the table does not know.
func Froms(to Version) string {
	var names []string
	if s := known(to); s != nil {
		for _, f := range s.from {
			names = append(names, Least(f))
		}
	}
	return strings.Join(names, ", ")
}
