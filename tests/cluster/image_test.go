package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// mount gives the node a file.
func (n *node) mount(path, content string) {
	n.Helper()
	file := filepath.Join(n.TempDir(), filepath.Base(path))
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		n.Fatal(err)
	}
	n.flags = append(n.flags, "-v", file+":"+path+":ro")
}

// What is no server of ours is executed as in the official image.
func TestOtherCommands(t *testing.T) {
	on(t, newest, func(c *cluster) {
		for _, test := range []struct {
			flags, command []string
			want           string
		}{
			{nil, []string{"rabbitmqctl", "version"}, `^` + regexp.QuoteMeta(c.version.name) + `\.\d+`},
			{nil, []string{"bash", "-c", "id -un; exit 0"}, `^root$`},
			{[]string{"--user", "rabbitmq"}, []string{"bash", "-c", "id -un"}, `^rabbitmq$`},
			{nil, []string{"rabbitmq-diagnostics", "--help"}, `Usage`},
			{[]string{"--entrypoint", "rabbitmqctl"}, []string{"version"}, `^` + regexp.QuoteMeta(c.version.name)},
			{nil, []string{"version"}, `^rmq-entrypoint `},
			{nil, []string{"--help"}, `--consul +CONSUL_HTTP_ADDR`},
		} {
			args := append(append([]string{"run", "--rm", "--label", label}, test.flags...), c.version.image)
			out, err := try(append(args, test.command...)...)
			if err != nil || !regexp.MustCompile(`(?m)`+test.want).MatchString(out) {
				c.Errorf("%v %v: want %s, got %s %v", test.flags, test.command, test.want, out, err)
			}
		}
		if out, err := try("run", "--rm", "--label", label, c.version.image, "bash", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
			c.Errorf("bash -c 'exit 7': %s, %v", out, err)
		}
		// A shell that starts a broker: in no cluster, so that Docker calls it unhealthy, and says why.
		n := c.node(1)
		n.checked = true
		n.flags = []string{"--health-interval", "2s", "--health-start-period", "1s", "--health-retries", "1"}
		n.command = []string{"bash", "-c", "rabbitmq-plugins enable --offline rabbitmq_prometheus && rabbitmq-server"}
		n.start()
		c.eventually(60*time.Second, "Docker says so", func() error {
			health := n.docker("inspect", "-f", "{{.State.Health.Status}} {{json .State.Health.Log}}", n.container)
			if !strings.HasPrefix(health, "unhealthy") || !strings.Contains(health, "was not started by rmq-entrypoint") || !strings.Contains(health, "make rabbitmq-server the command of the container") {
				return errors.New(health)
			}
			return nil
		})
	})
}

// The user's own node names, plugins, files and definitions all have their effect, in a cluster.
func TestUsersConfiguration(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(2)
		for _, n := range nodes {
			n.host += ".cluster.test"
			n.name = "broker@" + n.host
			n.env["RABBITMQ_NODENAME"], n.env["RABBITMQ_USE_LONGNAME"] = n.name, "true"
			n.mount("/etc/rabbitmq/enabled_plugins", "[rabbitmq_management,rabbitmq_prometheus,rabbitmq_shovel].\n")
			n.mount("/etc/rabbitmq/rabbitmq.conf", "max_message_size = 1234567\nload_definitions = /etc/rabbitmq/definitions.json\n")
			n.mount("/etc/rabbitmq/conf.d/20-own.conf", "channel_max = 77\n")
			n.mount("/etc/rabbitmq/advanced.config", "[{rabbit, [{advanced_mark, 42}]}].\n")
			n.mount("/etc/rabbitmq/definitions.json", `{"vhosts": [{"name": "/"}], "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
				"permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
				"queues": [{"name": "imported", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}}]}`)
		}
		start(nodes...)
		c.one(nodes...)
		for _, n := range nodes {
			out := n.ctl("eval", `[application:get_env(rabbit, K) || K <- [max_message_size, channel_max, advanced_mark]].`)
			if strings.Join(strings.Fields(out), "") != "[{ok,1234567},{ok,77},{ok,42}]" {
				c.Errorf("rabbitmq.conf, conf.d and advanced.config give %s", out)
			}
			if out := n.exec("rabbitmq-plugins", "-q", "list", "-E", "-m"); !strings.Contains(out, "rabbitmq_shovel") {
				c.Errorf("the enabled plugins are %s", out)
			}
			if out := n.ctl("list_queues", "name"); !strings.Contains(out, "imported") {
				c.Errorf("the definitions were not imported: the queues are %s", out)
			}
		}
	})
}

// A node that runs as rabbitmq from the start, on a read-only root file system, with TLS listeners alone and a user of
// its own.
func TestHardenedContainer(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n := c.node(1)
		n.flags = slices.Clone(asRabbitMQ)
		cert, key := selfSigned(c, n.host)
		n.mount("/etc/rabbitmq/tls/cert.pem", cert)
		n.mount("/etc/rabbitmq/tls/key.pem", key)
		n.mount("/etc/rabbitmq/conf.d/20-tls.conf", strings.Join([]string{
			"listeners.tcp = none", "listeners.ssl.default = 5671", "ssl_options.cacertfile = /etc/rabbitmq/tls/cert.pem",
			"ssl_options.certfile = /etc/rabbitmq/tls/cert.pem", "ssl_options.keyfile = /etc/rabbitmq/tls/key.pem", "",
		}, "\n"))
		n.env["RABBITMQ_DEFAULT_USER"], n.env["RABBITMQ_DEFAULT_PASS"] = "admin", "password"+c.id
		c.secrets = append(c.secrets[:2:2], n.env["RABBITMQ_DEFAULT_PASS"])
		n.start()
		c.one(n)
		if out := n.ctl("list_users"); !strings.Contains(out, "admin") || strings.Contains(out, "guest") {
			c.Errorf("the users are %s", out)
		}
		if v, err := n.view(); err != nil || !strings.Contains(v.Reason, "amqps://") {
			c.Errorf("the health check says %q, not that TLS answers (%v)", v.Reason, err)
		}
		if found, _, err := c.consul.Catalog().Service("rabbitmq", "", nil); err != nil || len(found) != 1 || found[0].ServicePort != 5671 {
			c.Errorf("registered is not the port that it listens on: %+v, %v", found, err)
		}
		if strings.Contains(n.log(), c.secrets[2]) {
			c.Error("the log holds the default user's password")
		}
		n.stop()
		n.start()
		c.one(n)
	})
}

func selfSigned(c *cluster, host string) (cert, key string) {
	c.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		c.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		c.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// Three nodes of the official entrypoint, clustered by hand, are switched over one by one with their volumes.
func TestSwitchOver(t *testing.T) {
	on(t, newest, func(c *cluster) {
		nodes := c.all(3)
		for _, n := range nodes {
			n.image = c.version.base
			n.flags = []string{"--no-healthcheck"}
		}
		start(nodes...)
		for i, n := range nodes {
			c.eventually(120*time.Second, n.host+" is up", func() error { _, err := n.tryExec("rabbitmqctl", "-q", "await_startup", "--timeout", "30"); return err })
			if i > 0 {
				n.ctl("stop_app")
				n.ctl("join_cluster", nodes[0].name)
				n.ctl("start_app")
			}
		}
		was := nodes[0].ctl("eval", `io:format("~s", [rabbit_nodes:persistent_cluster_id()]).`)
		nodes[1].declare("classic", classic)
		nodes[1].publish("classic", 50)
		nodes[1].declare("quorum", quorum)
		nodes[1].publish("quorum", 50)
		for _, n := range nodes {
			n.stop()
			n.rm()
			n.image, n.flags = c.version.image, nil
			n.start()
			n.said(120*time.Second, "verified: this node is a member")
			if r := c.record(); !strings.Contains(was, r.ClusterID) || len(r.Members) != 3 {
				c.Fatalf("the cluster was %s, the record is %+v", was, r)
			}
		}
		id := c.one(nodes...)
		if !strings.Contains(was, id) {
			c.Errorf("the cluster was %s and is %s", was, id)
		}
		nodes[0].holds("classic", 50)
		nodes[0].holds("quorum", 50)

		n := nodes[2] // and back
		n.stop()
		n.rm()
		n.image, n.flags = c.version.base, []string{"--no-healthcheck"}
		n.start()
		c.eventually(120*time.Second, "it is back in its cluster", func() error {
			s, err := n.status()
			if err == nil && len(s.running) != 3 {
				err = fmt.Errorf("it sees %v running", s.running)
			}
			return err
		})
	})
}

// Each mistake ends the start with status 1, names what the user typed, and changes nothing, here or in Consul.
func TestBadInput(t *testing.T) {
	on(t, newest, func(c *cluster) {
		n := c.node(1)
		n.flags, n.command = []string{"--entrypoint", "sleep", "--no-healthcheck"}, []string{"infinity"}
		n.start() // one container for all attempts
		for _, test := range []struct {
			name    string
			set     map[string]string // "" removes the variable
			user    string
			command []string
			volume  string // commands that prepare it, as root
			want    string
		}{
			{name: "unknown flag", command: []string{"--consull=x"}, want: "--consull.*--help"},
			{name: "unknown subcommand", command: []string{"statsu"}, want: `"statsu".*--help`},
			{name: "argument of a subcommand", command: []string{"status", "now"}, want: "status takes no argument"},
			{name: "short TTL", set: map[string]string{"RMQ_TTL": "5s"}, want: `--ttl \(RMQ_TTL\)`},
			{name: "TTL is no duration", set: map[string]string{"RMQ_TTL": "ten"}, want: "RMQ_TTL="},
			{name: "Consul's address", set: map[string]string{"CONSUL_HTTP_ADDR": "consul:http"}, want: "CONSUL_HTTP_ADDR"},
			{name: "DNS server", set: map[string]string{"RMQ_DNS_SERVER": "consul"}, want: "RMQ_DNS_SERVER"},
			{name: "no Consul answers", set: map[string]string{"CONSUL_HTTP_ADDR": c.subnet + ".10:9,nowhere.invalid:8500", "RMQ_WAIT_TIMEOUT": (5 * ttl).String()}, want: `(?s)RMQ_WAIT_TIMEOUT.*` + c.subnet + `\.10:9.*refused.*nowhere\.invalid`},
			{name: "no cookie", set: map[string]string{"RABBITMQ_ERLANG_COOKIE": ""}, want: "RABBITMQ_ERLANG_COOKIE"},
			{name: "cookie for all to read", volume: "echo -n " + c.secrets[0] + " >.erlang.cookie; chmod 444 .erlang.cookie", want: `cookie file /var/lib/rabbitmq/.erlang.cookie can be read by others.*chmod`},
			{name: "another cookie", volume: "echo -n OTHER >.erlang.cookie; chmod 400 .erlang.cookie", want: `differs from RABBITMQ_ERLANG_COOKIE`},
			{name: "node name", set: map[string]string{"RABBITMQ_NODENAME": "rab bit@rabbitmq1"}, want: "RABBITMQ_NODENAME.*name@host"},
			{name: "unresolvable host", set: map[string]string{"RABBITMQ_NODENAME": "rabbit@nowhere"}, want: "RABBITMQ_NODENAME.*no address"},
			{name: "long name", set: map[string]string{"RABBITMQ_NODENAME": "rabbit@a.b"}, want: "RABBITMQ_USE_LONGNAME"},
			{name: "another's data directory", user: "rabbitmq", volume: "mkdir mnesia; chown root:root mnesia; chmod 700 mnesia", want: "/var/lib/rabbitmq/mnesia.*chown"},
			{name: "another node's database", volume: "mkdir -p mnesia/rabbit@other; touch mnesia/rabbit@other/rabbit_serial", want: "rabbit@other.*RABBITMQ_NODENAME"},
			{name: "config path", set: map[string]string{"RMQ_CONFIG_FILE": "/sys/rabbitmq.config"}, want: "RMQ_CONFIG_FILE"},
			{name: "no server", set: map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin"}, want: "rabbitmq-server.*PATH"},
			{name: "deprecated variable", set: map[string]string{"RABBITMQ_DEFAULT_PASS_FILE": "/run/secrets/x"}, want: "RABBITMQ_DEFAULT_PASS_FILE"},
			{name: "password on the command line", command: []string{"--amqp-url=amqp://a:b@127.0.0.1"}, want: "RMQ_AMQP_URL"},
			{name: "damaged record of the volume", volume: "mkdir -p mnesia/rabbit@rabbitmq1-entrypoint; echo '{' >mnesia/rabbit@rabbitmq1-entrypoint/member", want: "member is damaged"},
		} {
			n.exec("sh", "-ec", "cd /var/lib/rabbitmq; rm -rf mnesia .erlang.cookie; chown rabbitmq .; "+test.volume) // the owner as in the image
			argv := []string{"exec", "--user", test.user, n.container, "env"}
			for k, v := range test.set {
				if v == "" {
					argv = append(argv, "-u", k)
				}
			}
			for k, v := range test.set {
				if v != "" {
					argv = append(argv, k+"="+v)
				}
			}
			out, err := try(append(append(argv, "/usr/local/bin/rmq-entrypoint"), test.command...)...)
			said, failed := "", false
			if err != nil { // docker's command line, its exit status, what the program said
				_, said, failed = strings.Cut(err.Error(), "exit status 1:")
			}
			if !failed || !regexp.MustCompile(test.want).MatchString(said) {
				c.Errorf("%s: want exit status 1 and %q, got %s %v", test.name, test.want, out, err)
				continue
			}
			for _, secret := range c.secrets {
				if strings.Contains(said, secret) {
					c.Errorf("%s: the output holds %s", test.name, secret)
				}
			}
			if r, m, s := c.record(), c.checks(), c.sessions(); r.State != "" || len(m) > 0 || s > 0 {
				c.Errorf("%s: left in Consul: %+v, %v, %d sessions", test.name, r, m, s)
			}
			if files := n.exec("find", "/var/lib/rabbitmq", "-name", "rabbitmq.config*", "-o", "-name", "pending"); files != "" {
				c.Errorf("%s: left on the volume: %s", test.name, files)
			}
		}
	})
}

// A token without rights is refused at once, with the right that is missing.
func TestTokenWithoutRights(t *testing.T) {
	on(t, newest, func(c *cluster) {
		c.wipeConsul("-hcl", `acl { enabled = true default_policy = "deny" }`)
		c.eventually(60*time.Second, "Consul has a leader", func() error {
			leader, err := c.consul.Status().Leader()
			if err == nil && leader == "" {
				err = errors.New("none")
			}
			return err
		})
		for token, want := range map[string]string{"": `lacks permission '\w+:\w+'|needs \w+:\w+`, c.secrets[1]: `CONSUL_HTTP_TOKEN`} {
			n := c.node(1)
			delete(n.env, "CONSUL_HTTP_TOKEN")
			if token != "" {
				n.env["CONSUL_HTTP_TOKEN"] = token
			}
			n.blankVolume()
			began := time.Now()
			status, out := n.attempt()
			if status != 1 || !regexp.MustCompile(want).MatchString(out) {
				c.Errorf("token %q: exit %d, want 1 and %q in:\n%s", token, status, want, out)
			}
			if took := time.Since(began); took > slow(30*time.Second) {
				c.Errorf("token %q: refused after %s", token, took)
			}
		}
	})
}
