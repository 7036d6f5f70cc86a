package rabbitconf

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSets(t *testing.T) {
	user, err := read(t,
		"# default_queue_type = quorum\ncluster_partition_handling.pause_if_all_down.recover = autoheal\nvm_memory_high_watermark.relative = 0.4",
		"queue_leader_locator = balanced\n",
		"[{rabbit, [{quorum_cluster_size, 3}]}, {kernel, [{net_ticktime, 60}]}].")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{
		"cluster_partition_handling": true, "vm_memory_high_watermark.relative": true, "vm_memory_high_watermark": true,
		"queue_leader_locator": true, "quorum_cluster_size": true,
		"default_queue_type": false, "net_ticktime": false, "queue_leader": false, "quorum": false, "": false,
	} {
		if got := user.Sets(key); got != want {
			t.Errorf("Sets(%q) = %v", key, got)
		}
		if (User{}).Sets(key) {
			t.Errorf("Sets(%q) of nobody", key)
		}
	}
}

func TestNoFiles(t *testing.T) {
	dir := t.TempDir()
	for _, paths := range [][3]string{{}, {dir + "/rabbitmq.conf", dir + "/conf.d", dir + "/advanced.config"}, {dir + "/no/rabbitmq.conf", dir + "/no/conf.d/*.conf", dir + "/no/advanced.config"}} {
		if user, err := ReadUser(Files{Conf: paths[0], ConfD: paths[1], Advanced: paths[2]}); err != nil || len(user.conf)+len(user.advanced)+len(user.formation) > 0 {
			t.Errorf("ReadUser(%q) = %+v, %v", paths, user, err)
		}
	}
}

// The forms that Cuttlefish's grammar knows.
func TestConfSyntax(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("rabbitmq.conf", "\n  \t\n# a comment = 1\n\t# another\r\na.b = 1\r\n  c=2 # why\nd = two words \nd = last\n"+
		"e = 'it is # not a comment'\nf = 'over\ntwo lines' # yes\ng = '\nh\\.i.j-k_1 = x=y\ninclude sub/*.conf # them\ninclude = 5\nlast = end")
	put("sub/1.conf", "one = 1\ninclude 3.inc\n")
	put("sub/2.conf", "one = 2\n")
	put("sub/3.inc", "three = 3\n")
	put("conf.d/10-defaults.conf", "log.console = true\na.b = conf.d\n")
	put("conf.d/.hidden", "hidden = 1\n")
	put("conf.d/20.txt", "log.console = false\n")
	put("conf.d/sub/no.conf", "no = 1\n")
	user, err := ReadUser(Files{Conf: filepath.Join(dir, "rabbitmq.conf"), ConfD: filepath.Join(dir, "conf.d")})
	if err != nil {
		t.Fatal(err)
	}
	want := []line{
		{"c", "2", "rabbitmq.conf:6"}, {"d", "last", "rabbitmq.conf:8"}, {"e", "it is # not a comment", "rabbitmq.conf:9"},
		{"f", "over\ntwo lines", "rabbitmq.conf:10"}, {"g", "'", "rabbitmq.conf:12"}, {`h\.i.j-k_1`, "x=y", "rabbitmq.conf:13"},
		{"three", "3", "sub/3.inc:1"}, {"one", "2", "sub/2.conf:1"}, {"include", "5", "rabbitmq.conf:15"}, {"last", "end", "rabbitmq.conf:16"},
		{"hidden", "1", "conf.d/.hidden:1"}, {"a.b", "conf.d", "conf.d/10-defaults.conf:2"}, {"log.console", "false", "conf.d/20.txt:1"},
	}
	if len(user.conf) != len(want) {
		t.Errorf("read %d settings, want %d", len(user.conf), len(want))
	}
	for i, got := range user.conf {
		got.at = strings.TrimPrefix(got.at, dir+"/")
		if i < len(want) && got != want[i] {
			t.Errorf("setting %d is %q, want %q", i, got, want[i])
		}
	}
	// A pattern, as RABBITMQ_CONFIG_FILES may be.
	if user, err = ReadUser(Files{ConfD: filepath.Join(dir, "conf.d/*.conf")}); err != nil || user.Sets("hidden") || !user.Sets("log.console") {
		t.Errorf("conf.d/*.conf: %+v, %v", user, err)
	}
}

func TestFormation(t *testing.T) {
	for _, test := range []struct{ conf, want string }{
		{"", "[]"},
		{"cluster_formation.peer_discovery_backend = classic_config\ncluster_formation.node_type = disc", "[]"},
		{"cluster_formation.peer_discovery_backend = rabbit_peer_discovery_classic_config\ncluster_formation.node_type = disk", "[]"},
		{"cluster_formation.registration.enabled = true", "[{perform_registration,true}]"},
		{"cluster_formation.lock_retry_limit = 10\ncluster_formation.lock_retry_timeout = 30000\ncluster_formation.internal_lock_retries = 7",
			"[{lock_retry_limit,10},{lock_retry_timeout,30000},{internal_lock_retries,7}]"},
		{"cluster_formation.target_cluster_size_hint = 3", "[{target_cluster_size_hint,3}]"},
		{"cluster_formation.randomized_startup_delay_range.min = 1\ncluster_formation.randomized_startup_delay_range.max = 2", "[{randomized_startup_delay_range,{1,2}}]"},
		{"cluster_formation.randomized_startup_delay_range.max = 9", "[{randomized_startup_delay_range,{5,9}}]"},
		{"cluster_formation.proxy.http_proxy = 'p\"1'\ncluster_formation.proxy.proxy_exclusions.1 = a\ncluster_formation.proxy.proxy_exclusions.2 = b",
			`[{proxy,[{http_proxy,"p\"1"},{proxy_exclusions,["a","b"]}]}]`},
	} {
		user, err := read(t, test.conf, "", "")
		if err != nil {
			t.Errorf("%s: %v", test.conf, err)
			continue
		}
		var b strings.Builder
		user.formation.render(&b)
		if b.String() != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.conf, b.String(), test.want)
		}
	}
}

func TestReadUserRefuses(t *testing.T) {
	for _, test := range []struct {
		conf, advanced string
		want           []string
	}{
		{conf: "\ncluster_formation.peer_discovery_backend = consul",
			want: []string{"rabbitmq.conf:2: cluster_formation.peer_discovery_backend: ", "decides who joins whom", "remove this key"}},
		{conf: "cluster_formation.classic_config.nodes.1 = rabbit@a", want: []string{"rabbitmq.conf:1: cluster_formation.classic_config.nodes.1: ", "remove this key"}},
		{conf: "cluster_formation.consul.host = consul.example.org", want: []string{"rabbitmq.conf:1: cluster_formation.consul.host: ", "another peer discovery backend", "remove this key. Here it is CONSUL_HTTP_ADDR (--consul)"}},
		{conf: "cluster_formation.consul.svc_tags.1 = a", want: []string{"rabbitmq.conf:1: cluster_formation.consul.svc_tags.1: ", "Here it is RMQ_TAGS (--tags)"}},
		{conf: "cluster_formation.consul.ssl_options.cacertfile = /a", want: []string{"Here it is CONSUL_CACERT"}},
		{conf: "cluster_formation.node_type = ram", want: []string{"rabbitmq.conf:1", "disc nodes only"}},
		{conf: "cluster_formation.something.new = 1", want: []string{"rabbitmq.conf:1: cluster_formation.something.new: ", "remove it, or write it as"}},
		{conf: "cluster_formation.target_cluster_size_hint = $(size)", want: []string{"rabbitmq.conf:1", "write the value itself"}},
		{conf: "cluster_formation.target_cluster_size_hint = three", want: []string{"rabbitmq.conf:1: cluster_formation.target_cluster_size_hint: ", `"three" is not a whole number of at least 1`}},
		{conf: "cluster_formation.discovery_retry_limit = 0", want: []string{"at least 1"}},
		{conf: "cluster_formation.registration.enabled = yes", want: []string{"neither true nor false"}},
		{conf: "a = 1\nnonsense\n", want: []string{"rabbitmq.conf:2: not a setting"}},
		{conf: "a = 1\nb = \n", want: []string{"rabbitmq.conf:2: not a setting"}},
		{conf: "include rabbitmq.conf\n", want: []string{"include each other"}},
		{advanced: "[{rabbit, [\n{a, 1}\n{b, 2}]}].", want: []string{"advanced.config: line 3: expected", "write plain Erlang terms, or use rabbitmq.conf"}},
		{advanced: "[{rabbit, [{pass, os:getenv(\"P\")}]}].", want: []string{"advanced.config: line 1"}},
		{advanced: "[]. [].", want: []string{"advanced.config: it must hold one list"}},
		{advanced: "{rabbit, []}.", want: []string{"advanced.config: it must hold one list"}},
		{advanced: "[{rabbit, []}, rabbit].", want: []string{"element 2 is not {application, [{key, value}]}"}},
		{advanced: "[{rabbit, a}].", want: []string{"element 1 is not {application, [{key, value}]}"}},
		{advanced: "[{\"rabbit\", []}].", want: []string{"element 1 is not"}},
		{advanced: "[{rabbit, [{a, 1}, b]}].", want: []string{"element 2 of rabbit is not {key, value}"}},
		{advanced: "[{rabbit, [{cluster_nodes, {['rabbit@a'], disc}}]}].", want: []string{"advanced.config: {rabbit, [{cluster_nodes, ", "remove this key"}},
		{advanced: "[{rabbit, [{cluster_formation, [{peer_discovery_backend, rabbit_peer_discovery_consul}]}]}].",
			want: []string{"advanced.config: {rabbit, [{cluster_formation, [{peer_discovery_backend", "remove this key"}},
		{advanced: "[{rabbit, [{cluster_formation, a}]}].", want: []string{"takes a list"}},
		// What advanced.config replaces does not matter, but who decides does.
		{conf: "cluster_formation.peer_discovery_backend = k8s", advanced: "[{rabbit, [{cluster_formation, []}]}].", want: []string{"rabbitmq.conf:1"}},
	} {
		_, err := read(t, test.conf, "", test.advanced)
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q, %q: %v, want %q in it", test.conf, test.advanced, err, want)
			}
		}
	}
	// A file that is there and cannot be read is not a missing one.
	if _, err := ReadUser(Files{Advanced: t.TempDir()}); err == nil {
		t.Error("ReadUser of a directory as advanced.config: no error")
	}
	if _, err := ReadUser(Files{ConfD: "conf.d/["}); err == nil || !strings.Contains(err.Error(), "RABBITMQ_CONFIG_FILES") {
		t.Errorf("ReadUser of a bad pattern: %v", err)
	}
}

// What would make RabbitMQ forget nodes that are merely stopped, or does nothing where it
// promises something, is refused wherever it is written: by file and line, or by file and
// the path of the key in terms.
func TestHarmfulFormationIsRefused(t *testing.T) {
	const (
		cleanup   = "cluster_formation.node_cleanup."
		register  = "cluster_formation.registration.enabled"
		formation = "advanced.config: {rabbit, [{cluster_formation, [{"
	)
	terms := func(s string) string { return "[{rabbit, [{cluster_formation, [" + s + "]}]}]." }
	for _, test := range []struct {
		conf, confD, advanced string
		want                  []string // nil: it is taken
	}{
		{conf: "\n" + cleanup + "only_log_warning = false", want: []string{"rabbitmq.conf:2: " + cleanup + "only_log_warning: ", "merely stopped", "Remove this", "rmq-entrypoint leave", "rmq-entrypoint forget"}},
		// The plugin's variables overrule the file, and any key turns the rounds on.
		{conf: cleanup + "only_log_warning = true", want: []string{"rabbitmq.conf:1: " + cleanup + "only_log_warning: "}},
		{conf: "a = 1", confD: cleanup + "interval = 15\n" + cleanup + "only_log_warning = false",
			want: []string{"conf.d/20-user.conf:1: " + cleanup + "interval, ", "conf.d/20-user.conf:2: " + cleanup + "only_log_warning: "}},
		{conf: cleanup + "interval = $(X)", want: []string{"rabbitmq.conf:1: " + cleanup + "interval: ", "merely stopped"}},
		{conf: cleanup + "some.new.key = 1", want: []string{"rabbitmq.conf:1: " + cleanup + "some.new.key: ", "merely stopped"}},
		{conf: cleanup + "interval = 9", advanced: terms(""), want: []string{"rabbitmq.conf:1: " + cleanup + "interval: "}},
		{advanced: terms("{node_cleanup, [{cleanup_only_log_warning, false}]}"), want: []string{formation + "node_cleanup, …}]}]}: ", "merely stopped", "rmq-entrypoint leave"}},
		{advanced: terms("{target_cluster_size_hint, 3}, {node_cleanup, []}"), want: []string{formation + "node_cleanup, "}},
		{advanced: terms("node_cleanup"), want: []string{formation + "node_cleanup, "}},

		{conf: "a = 1\n\n" + register + " = false", want: []string{"rabbitmq.conf:3: " + register + " = false: ", "registers each of them in Consul", "Remove this"}},
		{conf: register + " = true", confD: register + " = false", want: []string{"conf.d/20-user.conf:1: " + register}},
		{conf: register + " = false", confD: register + " = true"}, // the last one counts
		{conf: register + " = false", advanced: terms(""), want: []string{"rabbitmq.conf:1: " + register}},
		{advanced: terms("{perform_registration, false}"), want: []string{formation + "perform_registration, …}]}]}: ", "registers each of them in Consul"}},
		{advanced: terms("{perform_registration, \"false\"}"), want: []string{formation + "perform_registration, "}},
		{advanced: terms("{perform_registration, true}")},
		{advanced: terms("perform_registration")},

		// What the .conf files may not say, terms may not either.
		{advanced: terms("{node_type, ram}"), want: []string{formation + "node_type, …}]}]}: ", "disc nodes only"}},
		{advanced: terms("{node_type, disc}")},
		{advanced: terms("{peer_discovery_consul, [{consul_host, \"consul\"}]}"), want: []string{formation + "peer_discovery_consul, …}]}]}: ", "backend consul", "remove this key"}},
		{advanced: terms("{peer_discovery_backend, rabbit_peer_discovery_classic_config}, {discovery_retry_limit, 3}")},
	} {
		_, err := read(t, test.conf, test.confD, test.advanced)
		if (err == nil) != (test.want == nil) {
			t.Errorf("%q, %q, %q: %v", test.conf, test.confD, test.advanced, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q, %q, %q: %v, want %q in it", test.conf, test.confD, test.advanced, err, want)
			}
		}
	}
	for variable, taken := range map[string]bool{
		"CLEANUP_ONLY_LOG_WARNING=false": false, "RABBITMQ_CLEANUP_ONLY_LOG_WARNING=false": false, "CLEANUP_ONLY_LOG_WARNING=0": false,
		"CLEANUP_INTERVAL=15": false, "RABBITMQ_CLEANUP_INTERVAL=15": false,
		"CLEANUP_ONLY_LOG_WARNING=true": true, "CLEANUP_ONLY_LOG_WARNING=": true, "CLEANUP_INTERVAL=": true, "RABBITMQ_NODE_PORT=1": true, "OTHER_CLEANUP_INTERVAL=1": true,
	} {
		name, value, _ := strings.Cut(variable, "=")
		if why := CleanupVariable(name, value); (why == "") != taken {
			t.Errorf("%s: %q", variable, why)
		}
	}
}

// Keys that do nothing are taken, as RabbitMQ takes them, and named.
func TestIgnored(t *testing.T) {
	for _, test := range []struct{ conf, advanced, want string }{
		{conf: "a = 1\ncluster_formation.proxy.http_proxy = p", want: "rabbitmq.conf:2: cluster_formation.proxy.http_proxy"},
		{advanced: "[{rabbit, [{cluster_formation, [{proxy, []}]}]}].", want: "advanced.config: {rabbit, [{cluster_formation, [{proxy, …}]}]}"},
		{conf: "cluster_formation.target_cluster_size_hint = 3"},
	} {
		user, err := read(t, test.conf, "", test.advanced)
		if got := strings.Join(user.Ignored(), ", "); err != nil || !strings.HasSuffix(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%q, %q: %q, %v; want %q", test.conf, test.advanced, got, err, test.want)
		}
	}
}

// No message shows what may be a secret.
func TestErrorsKeepSecrets(t *testing.T) {
	for _, test := range []struct{ conf, advanced string }{
		{conf: "default_pass hunter2"},
		{conf: "cluster_formation.consul.acl_token = hunter2"},
		{advanced: "[{rabbit, [{default_pass, <<\"hunter2\">>} {a, b}]}]."},
		{advanced: "[{rabbit, [<<\"hunter2\">>]}]."},
	} {
		if _, err := read(t, test.conf, "", test.advanced); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q, %q: %v", test.conf, test.advanced, err)
		}
	}
}

func TestMainConf(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"new.conf": "a = 1", "old.config": "[].", "both.conf": "a = 1", "both.config": "[].",
		"bare": "a = 1", "bare.config": "[].", "terms": "[{rabbit, []}].", "empty": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ path, want, terms string }{
		{"new", "new.conf", ""}, {"new.conf", "new.conf", ""}, {"bare", "bare", ""}, {"empty", "empty", ""}, {"none", "", ""}, {"none.conf", "", ""},
		{"old", "", "old.config"}, {"both", "", "both.config"}, {"old.config", "", "old.config"}, {"terms", "", "terms"},
	} {
		got, err := MainConf(filepath.Join(dir, test.path))
		if test.terms != "" {
			if err == nil || !strings.HasPrefix(err.Error(), filepath.Join(dir, test.terms)+": ") || !strings.Contains(err.Error(), dir+"/advanced.config") {
				t.Errorf("MainConf(%s) = %q, %v", test.path, got, err)
			}
		} else if want := test.want; err != nil || strings.TrimPrefix(got, dir+"/") != want {
			t.Errorf("MainConf(%s) = %q, %v, want %q", test.path, got, err, want)
		}
	}
	if got, err := MainConf(""); got != "" || err != nil {
		t.Errorf("MainConf of nothing = %q, %v", got, err)
	}
}

func TestListeners(t *testing.T) {
	for _, test := range []struct {
		conf, advanced string
		want           []Listener
	}{
		{"", "", []Listener{{Port: 5555}}},
		{"heartbeat = 10", "[{rabbit, [{heartbeat, 10}]}].", []Listener{{Port: 5555}}},
		{"listeners.tcp.default = 1", "", []Listener{{Port: 1}}},
		{"listeners.tcp.a = 127.0.0.1:1\nlisteners.tcp.b = 2\nlisteners.tcp.c = ::1:3\nlisteners.tcp.d = 0.0.0.0:4\nlisteners.tcp.e = :::5\nlisteners.tcp.f = [::1]:6", "",
			[]Listener{{Host: "127.0.0.1", Port: 1}, {Port: 2}, {Host: "::1", Port: 3}, {Port: 4}, {Port: 5}, {Host: "::1", Port: 6}}},
		{"listeners.tcp = none", "", nil},
		{"listeners.tcp.default = none", "", nil},
		{"listeners.ssl.default = 5671", "", []Listener{{Port: 5555}, {Port: 5671, TLS: true}}},
		{"listeners.tcp = none\nlisteners.ssl.default = 5671", "", []Listener{{Port: 5671, TLS: true}}},
		{"listeners.tcp.default = 1\nlisteners.ssl.default = 2", `[{rabbit, [{tcp_listeners, []}, {ssl_listeners, [{"::", 3}, {"10.0.0.1", 4}, 5]}]}].`,
			[]Listener{{Port: 3, TLS: true}, {Host: "10.0.0.1", Port: 4, TLS: true}, {Port: 5, TLS: true}}},
		{"listeners.tcp.default = 1", `[{rabbit, [{tcp_listeners, [{"auto", 6, []}, odd, {7}, {a, 8}]}]}].`, []Listener{{Port: 6}}},
		{"management.listener.port = 1\nmqtt.listeners.tcp.default = 2", "[{rabbitmq_mqtt, [{tcp_listeners, [3]}]}].", []Listener{{Port: 5555}}},
	} {
		user, err := read(t, test.conf, "", test.advanced)
		if err != nil {
			t.Errorf("%q %q: %v", test.conf, test.advanced, err)
			continue
		}
		if got := user.Listeners(Listener{Port: 5555}); !slices.Equal(got, test.want) {
			t.Errorf("%q %q: %+v, want %+v", test.conf, test.advanced, got, test.want)
		}
	}
}

func TestDefault(t *testing.T) {
	for _, test := range []struct{ conf, advanced, user, pass string }{
		{"", "", "", ""},
		{"default_user = x\ndefault_pass = 'a # b'", "", "x", "a # b"},
		{"default_user = x\ndefault_user = y", "", "y", ""},
		{"default_user = x\ndefault_pass = y", `[{rabbit, [{default_user, <<"z">>}]}].`, "z", "y"},
		{"default_user = x\ndefault_pass = encrypted:abc", "", "x", ""},
		{"default_user = w", `[{rabbit, [{default_pass, {encrypted, <<"abc">>}}]}].`, "w", ""},
	} {
		user, err := read(t, test.conf, "", test.advanced)
		if err != nil {
			t.Errorf("%q %q: %v", test.conf, test.advanced, err)
			continue
		}
		if u, p := user.Default("default_user"), user.Default("default_pass"); u != test.user || p != test.pass {
			t.Errorf("%q %q: %q, %q", test.conf, test.advanced, u, p)
		}
	}
}

func TestHTTP(t *testing.T) {
	for _, test := range []struct {
		plugin, conf, advanced string
		want                   Listener
	}{
		{"management", "", "", Listener{Port: 15672}},
		{"management", "prometheus.tcp.port = 1\nmanagement.path_prefix = /x", "[{rabbitmq_prometheus, [{tcp_config, [{port, 1}]}]}].", Listener{Port: 15672}},
		{"management", "management.tcp.port = 1\nmanagement.ssl.port = 2", "", Listener{Port: 1}},
		{"management", "management.ssl.certfile = /c", "", Listener{Port: 15671, TLS: true}},
		{"management", "management.tcp.ip = 127.0.0.1\nmanagement.ssl.port = 2", "", Listener{Port: 2, TLS: true}},
		{"management", "management.tcp.ip = 127.0.0.1", "", Listener{Host: "127.0.0.1", Port: 15672}},
		{"management", "management.listener.port = 3\nmanagement.listener.ssl = true\nmanagement.listener.ip = 0.0.0.0", "", Listener{Port: 3, TLS: true}},
		{"management", "management.tcp.port = 1\nmanagement.tcp.ip = ::1", `[{rabbitmq_management, [{tcp_config, [{port, 4}, {ip, "10.0.0.1"}]}]}].`, Listener{Host: "10.0.0.1", Port: 4}},
		{"management", "", `[{rabbitmq_management, [{listener, [{port, 5}, {ssl, true}, {ssl_opts, []}]}]}].`, Listener{Port: 5, TLS: true}},
		{"management", "management.tcp.port = 1", `[{rabbitmq_management, [{tcp_config, []}]}].`, Listener{Port: 15672}},
		{"prometheus", "", "", Listener{Port: 15692}},
		{"prometheus", "prometheus.tcp.port = 1", "", Listener{Port: 1}},
		{"prometheus", "prometheus.ssl.cacertfile = /c", "", Listener{Port: 15691, TLS: true}},
		{"prometheus", "", "[{rabbitmq_prometheus, [{tcp_config, [{port, 6}]}]}].", Listener{Port: 6}},
	} {
		user, err := read(t, test.conf, "", test.advanced)
		if err != nil {
			t.Errorf("%q %q: %v", test.conf, test.advanced, err)
			continue
		}
		port := map[string]int{"management": 15672, "prometheus": 15692}[test.plugin]
		if got := user.HTTP(test.plugin, port); got != test.want {
			t.Errorf("%s %q %q: %+v, want %+v", test.plugin, test.conf, test.advanced, got, test.want)
		}
	}
	for host, want := range map[string]bool{"": false, "10.0.0.1": false, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "localhost": true, "rabbitmq1": false} {
		if got := (Listener{Host: host}).Local(); got != want {
			t.Errorf("%q is local: %v", host, got)
		}
	}
}
