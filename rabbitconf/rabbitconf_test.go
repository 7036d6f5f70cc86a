package rabbitconf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const header = `%% Written by rmq-entrypoint at each start of this node: edits are lost.
%% Put settings into rabbitmq.conf, conf.d or advanced.config, which it respects.
`

// read makes a User of the contents of three files.
func read(t *testing.T, conf, confD, advanced string) (User, error) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"rabbitmq.conf": conf, "conf.d/20-user.conf": confD, "advanced.config": advanced,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return ReadUser(Files{Conf: filepath.Join(dir, "rabbitmq.conf"), ConfD: filepath.Join(dir, "conf.d"), Advanced: filepath.Join(dir, "advanced.config")})
}

func TestRender(t *testing.T) {
	v43, v40, v310, v38 := Version{4, 3, 6}, Version{4, 0, 5}, Version{3, 10, 8}, Version{3, 8, 9}
	quorum := Setting{Key: "default_queue_type", Value: Atom("rabbit_quorum_queue")}
	for _, test := range []struct {
		name                  string
		opts                  Options
		conf, confD, advanced string
		want                  string
	}{
		{
			name: "seed",
			opts: Options{Version: v43, Node: "rabbit@rabbitmq1", PauseMinority: true},
			want: `[
 {rabbit,[
  {cluster_nodes,{['rabbit@rabbitmq1'],disc}}
 ]}
].
`,
		},
		{
			name: "joiner, itself and another named twice",
			opts: Options{Version: v40, Node: "rabbit@rabbitmq2", Joining: true, PauseMinority: true,
				Peers: []string{"rabbit@rabbitmq1", "rabbit@rabbitmq3", "rabbit@rabbitmq1", "rabbit@rabbitmq2"}},
			want: `[
 {rabbit,[
  {cluster_nodes,{['rabbit@rabbitmq1','rabbit@rabbitmq3','rabbit@rabbitmq2'],disc}},
  {cluster_formation,[{discovery_retry_limit,1000000},{discovery_retry_interval,500}]},
  {cluster_partition_handling,pause_minority}
 ]}
].
`,
		},
		{
			name: "joiner on a version with a random delay",
			opts: Options{Version: v38, Node: "rabbit@b.example.org", Peers: []string{"rabbit@a.example.org"}, Joining: true},
			want: `[
 {rabbit,[
  {cluster_nodes,{['rabbit@a.example.org','rabbit@b.example.org'],disc}},
  {cluster_formation,[{discovery_retry_limit,1000000},{discovery_retry_interval,500},{randomized_startup_delay_range,{0,0}}]}
 ]}
].
`,
		},
		{
			name: "seed on a version with a random delay",
			opts: Options{Version: v38, Node: "rabbit@a"},
			want: `[
 {rabbit,[
  {cluster_nodes,{['rabbit@a'],disc}},
  {cluster_formation,[{randomized_startup_delay_range,{0,0}}]}
 ]}
].
`,
		},
		{
			name: "settings of ours that nobody set",
			opts: Options{Version: v40, Node: "rabbit@a", Extra: []Setting{quorum,
				{Key: "quorum_membership_reconciliation_enabled", Conf: "quorum_queue.continuous_membership_reconciliation.enabled", Value: Atom("true")},
				{Key: "quorum_membership_reconciliation_target_group_size", Value: Int(3)}}},
			want: `[
 {rabbit,[
  {cluster_nodes,{['rabbit@a'],disc}},
  {default_queue_type,rabbit_quorum_queue},
  {quorum_membership_reconciliation_enabled,true},
  {quorum_membership_reconciliation_target_group_size,3}
 ]}
].
`,
		},
		{
			name: "a lone broker",
			opts: Options{Version: v40, Node: "rabbit@a", Lone: true, Extra: ClusterName("dev")},
			want: `[
 {rabbit,[
  {cluster_name,<<"dev">>}
 ]}
].
`,
		},
		{
			name: "the cluster's name, beyond ASCII as RabbitMQ keeps it",
			opts: Options{Version: v40, Node: "rabbit@a", Extra: ClusterName("großer \"hof\"")},
			want: `[
 {rabbit,[
  {cluster_nodes,{['rabbit@a'],disc}},
  {cluster_name,<<103,114,111,195,159,101,114,32,34,104,111,102,34>>}
 ]}
].
`,
		},
		{
			name: "the user calls the cluster otherwise, or nobody calls it anything",
			opts: Options{Version: v40, Node: "rabbit@a", Extra: append(ClusterName("rabbitmq"), ClusterName("")...)},
			conf: "cluster_name = orders\n",
			want: `[
 {rabbit,[
  {cluster_nodes,{['rabbit@a'],disc}}
 ]}
].
`,
		},
		{
			name: "the user's .conf files win, except for a joiner's retries",
			opts: Options{Version: v310, Node: "rabbit@b", Peers: []string{"rabbit@a"}, Joining: true, PauseMinority: true, Extra: []Setting{quorum,
				{Key: "quorum_membership_reconciliation_enabled", Conf: "quorum_queue.continuous_membership_reconciliation.enabled", Value: Atom("true")}}},
			conf: "cluster_formation.discovery_retry_limit = 10\ncluster_formation.discovery_retry_interval = 2000\n" +
				"cluster_formation.target_cluster_size_hint = 3\ndefault_queue_type = classic\n" +
				"quorum_queue.continuous_membership_reconciliation.enabled = false\n",
			confD: "cluster_formation.target_cluster_size_hint = 5\ncluster_partition_handling.pause_if_all_down.recover = ignore\n",
			want: `[
 {rabbit,[
  {cluster_nodes,{['rabbit@a','rabbit@b'],disc}},
  {cluster_formation,[{discovery_retry_limit,1000000},{discovery_retry_interval,2000},{target_cluster_size_hint,5}]}
 ]}
].
`,
		},
		{
			name: "a seed keeps the user's retries",
			opts: Options{Version: v43, Node: "rabbit@a"},
			conf: "cluster_formation.discovery_retry_limit = unlimited\n",
			want: `[
 {rabbit,[
  {cluster_nodes,{['rabbit@a'],disc}},
  {cluster_formation,[{discovery_retry_limit,unlimited}]}
 ]}
].
`,
		},
		{
			name: "advanced.config is included, and its lists replace those of the .conf files",
			opts: Options{Version: v40, Node: "rabbit@b", Peers: []string{"rabbit@a"}, Joining: true, PauseMinority: true, Extra: []Setting{quorum}},
			conf: "cluster_formation.target_cluster_size_hint = 3\ncluster_formation.k8s.host = gone\n",
			advanced: `%% coding: utf-8
[
  {rabbit, [{tcp_listeners, []},
            {cluster_formation, [{proxy, [{http_proxy, "p"}]}, {discovery_retry_limit, 10}, {discovery_retry_limit, 11}]},
            {default_queue_type, rabbit_classic_queue},
            {cluster_partition_handling, autoheal},
            {default_pass, <<"é"/utf8>>}]},
  {kernel, [{net_ticktime, 30}]},
  {lager, []},
  {kernel, [{net_ticktime, 60}, {net_ticktime, 120}, {inet_dist_listen_min, 25672}]}
].
`,
			want: `[
 {rabbit,[
  {tcp_listeners,[]},
  {cluster_formation,[{proxy,[{http_proxy,"p"}]},{discovery_retry_limit,1000000},{discovery_retry_interval,500}]},
  {default_queue_type,rabbit_classic_queue},
  {cluster_partition_handling,autoheal},
  {default_pass,<<195,169>>},
  {cluster_nodes,{['rabbit@a','rabbit@b'],disc}}
 ]},
 {lager,[
 ]},
 {kernel,[
  {net_ticktime,120},
  {inet_dist_listen_min,25672}
 ]}
].
`,
		},
		{
			name:     "advanced.config without the application rabbit",
			opts:     Options{Version: v43, Node: "rabbit@a"},
			advanced: `[{rabbitmq_management, [{listener, [{port, 15672}]}]}].`,
			want: `[
 {rabbitmq_management,[
  {listener,[{port,15672}]}
 ]},
 {rabbit,[
  {cluster_nodes,{['rabbit@a'],disc}}
 ]}
].
`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			user, err := read(t, test.conf, test.confD, test.advanced)
			if err != nil {
				t.Fatal(err)
			}
			test.opts.User = user
			for range 2 { // the same twice: deterministic, and User is left alone
				got, err := Render(test.opts)
				if err != nil {
					t.Fatal(err)
				}
				if string(got) != header+test.want {
					t.Fatalf("got\n%s\nwant\n%s", got, header+test.want)
				}
			}
			back, err := parse([]byte(test.want))
			if err != nil || len(back) != 1 {
				t.Errorf("parse what was rendered: %v", err)
			}
		})
	}
}

// Every name comes from the network or from a variable; none may say more than
// a name.
func TestRenderRefusesNames(t *testing.T) {
	for _, name := range []string{
		"", "rabbit", "@host", "rabbit@", "rabbit@a@b", "rabbit@a b", " rabbit@a", "rabbit@a\n", "rabbit@a\x00",
		"rabbit@a'],disc}},{default_pass,<<\"x\">>},{x,{['", `rabbit@a\`, `rabbit@a\'`, `rabbit@"a"`, "rabbit@a%b", "rabbit@a,b", "rabbit@a}b",
		"rabbit@ä", "räbbit@a", "rabbit@$(reboot)", "rab.bit@a", "rabbit@.a", "rabbit@a.", "rabbit@a..b", "rabbit@-a", "rabbit@a-",
		"-n@a", "--offline@a", "rabbit@" + strings.Repeat("a", 249),
	} {
		if err := ValidNode(name); err == nil {
			t.Errorf("ValidNode(%q) = nil", name)
		}
		for _, opts := range []Options{{Node: name}, {Node: "rabbit@a", Peers: []string{"rabbit@b", name}, Joining: true}} {
			if out, err := Render(opts); err == nil {
				t.Errorf("Render with %q =\n%s", name, out)
			}
		}
	}
	for _, name := range []string{"rabbit@a", "Rabbit-1_x@A-b_c.example.org", "rabbit@10.0.0.1", "r@" + strings.Repeat("a", 253)} {
		if err := ValidNode(name); err != nil {
			t.Error(err)
		}
	}
}

func TestRenderRefusesRoles(t *testing.T) {
	for _, opts := range []Options{
		{Node: "rabbit@a", Joining: true},
		{Node: "rabbit@a", Joining: true, Peers: []string{"rabbit@a", "rabbit@a"}},
		{Node: "rabbit@a", Peers: []string{"rabbit@b"}},
	} {
		if out, err := Render(opts); err == nil {
			t.Errorf("Render(%+v) =\n%s", opts, out)
		}
	}
}
