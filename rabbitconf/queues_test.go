package rabbitconf

import (
	"fmt"
	"strings"
	"testing"
)

// ours renders a seed's file with the settings for its queues.
func ours(t *testing.T, v Version, conf, confD, advanced string) string {
	t.Helper()
	user, err := read(t, conf, confD, advanced)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Render(Options{Version: v, Node: "rabbit@a", Extra: Queues(v, true), PauseMinority: true, User: user})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestQueues(t *testing.T) {
	for _, v := range []Version{{3, 8, 9}, {3, 10, 8}, {3, 13, 7}} {
		if got := ours(t, v, "", "", ""); strings.Contains(got, "queue") || strings.Contains(got, "quorum") {
			t.Errorf("%v: %s", v, got)
		}
	}
	const want = `  {default_queue_type,rabbit_quorum_queue},
  {default_policies,[{operator,[{<<"rmq-entrypoint-delivery-limit">>,[{<<"vhost_pattern">>,".*"},{<<"queue_pattern">>,<<".*">>},{<<"delivery_limit">>,-1}]}]}]},
  {quorum_membership_reconciliation_enabled,true},
  {quorum_membership_reconciliation_target_group_size,3}
`
	for _, v := range []Version{{4, 0, 0}, {4, 0, 5}, {4, 3, 6}, {5, 0, 0}} {
		if got := ours(t, v, "", "", ""); !strings.Contains(got, want) {
			t.Errorf("%v: %s", v, got)
		}
	}
	// What clients say keeps its meaning where queues were classic.
	for _, s := range Queues(Version{4, 3, 6}, false) {
		if !strings.HasPrefix(string(s.Key), "quorum_membership_reconciliation_") {
			t.Errorf("in a cluster whose queues are classic: %s", s.Key)
		}
	}
}

// A policy that the user gives new virtual hosts stays as it is.
func TestUsersDefaultPolicies(t *testing.T) {
	got := ours(t, Version{4, 0, 5}, "default_policies.operator.mine.queue_pattern = ^own\ndefault_policies.operator.mine.delivery_limit = 7\n", "", "")
	if strings.Contains(got, "default_policies") {
		t.Error(got)
	}
}

// Whatever we write overrides the user's .conf files: each key of ours has to
// give way to the user's own, wherever that stands, and the others stay.
func TestUsersQueueSettingsWin(t *testing.T) {
	v := Version{4, 0, 5}
	all := append(Queues(v, true), Setting{Key: "cluster_partition_handling", Value: Atom("pause_minority")})
	for _, s := range all {
		name := s.Conf
		if name == "" {
			name = string(s.Key)
		}
		line := name + " = mine\n"
		for where, files := range map[string][3]string{
			"rabbitmq.conf":   {line, "", ""},
			"conf.d":          {"", line, ""},
			"advanced.config": {"", "", fmt.Sprintf("[{rabbit, [{%s, mine}]}].", s.Key)},
		} {
			got := ours(t, v, files[0], files[1], files[2])
			for _, other := range all {
				var b strings.Builder
				Tuple{other.Key, other.Value}.render(&b)
				if want := other.Key != s.Key; strings.Contains(got, b.String()) != want {
					t.Errorf("%s set in %s: %s is there: %v, want %v, in\n%s", name, where, b.String(), !want, want, got)
				}
			}
			if mine := fmt.Sprintf("{%s,mine}", s.Key); strings.Contains(got, mine) != (where == "advanced.config") {
				t.Errorf("%s set in %s: %s", name, where, got)
			}
		}
	}
}
