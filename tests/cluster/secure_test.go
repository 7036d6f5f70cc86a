package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	amqp "github.com/rabbitmq/amqp091-go"
)

// A secured cluster is that of scripts/up --secure.
type secured struct {
	*demo
	dir    string // of its secrets
	roots  *x509.CertPool
	store  map[string]any // all of the secrets
	tokens *api.Client    // with the token that may do everything
}

// The secure example founds, joins, fails over, drains and leaves; and a stranger on the network, a token to register
// services, and plain text get nowhere.
func TestSecure(t *testing.T) {
	if testing.Short() {
		t.Skip("needs containers")
	}
	parallel(t)
	images := map[string]string{"4.3": ""} // by version; the newest is what there is when none is named
	if full {
		images["4.0"], images["3.10"] = "rabbitmq:4.0-management", "rabbitmq:3.10-management"
	}
	for version, image := range images {
		t.Run(version, func(t *testing.T) { testSecure(newSecured(t, image)) })
	}
}

func testSecure(s *secured) {
	var id string

	s.in("one node founds, two join, and nothing secret is said", func() {
		said := s.script("up", "--secure", "1")
		said += s.script("up", "--secure", "3")
		s.read()
		id = s.whole(1, 2, 3)
		for _, node := range []string{"rabbitmq1", "rabbitmq2", "rabbitmq3"} {
			said += s.node(node).log()
		}
		for _, secret := range s.secrets {
			if strings.Contains(said, secret) {
				s.Errorf("a secret is in what scripts/up or a node said")
			}
		}
	})
	s.in("again changes nothing", func() {
		was := s.containers()
		s.script("up", "--secure", "3")
		if is := s.containers(); is != was {
			s.Errorf("the containers were\n%s\nand are\n%s", was, is)
		}
	})
	s.in("plain text gets nowhere", s.plainText)
	s.in("who has no certificate is no node", s.noCertificate)
	s.in("a container reads its own secrets, as its own user alone", s.ownSecrets)
	s.in("nobody, and a token to register services, get nowhere", s.stranger)

	s.in("fails over", func() {
		s.publish("before")
		s.docker("kill", s.node("rabbitmq1").container)
		s.publish("without rabbitmq1")
		s.docker("start", s.node1())
		s.same(id, s.whole(1, 2, 3))
		if got := s.consume(2); !slices.Equal(got, []string{"before", "without rabbitmq1"}) {
			s.Errorf("of two messages there are %q", got)
		}
	})
	s.in("drains", func() {
		s.eventually(time.Minute, "rabbitmq2 is drained", func() error {
			_, err := s.node("rabbitmq2").tryExec("rmq-entrypoint", "drain")
			return err
		})
		s.eventually(20*time.Second, "the balancer leaves it out", func() error { return s.up(2) })
		s.docker("restart", "-t", "120", s.node("rabbitmq2").container)
		s.same(id, s.whole(1, 2, 3))
	})
	s.in("leaves", func() {
		s.Log(s.node("rabbitmq3").exec("rmq-entrypoint", "leave"))
		s.compose("rm", "--stop", "--force", "rabbitmq3")
		s.same(id, s.whole(1, 2))
	})
	s.in("goes, and comes back with its data", func() {
		s.script("down", "--secure")
		s.script("up", "--secure", "2")
		s.same(id, s.whole(1, 2))
		s.script("down", "--secure", "--volumes")
		if left := s.left(); left != "" {
			s.Errorf("it left %s", left)
		}
	})
}

func newSecured(t *testing.T, image string) *secured {
	t.Helper()
	d := newDemo(t, "secure")
	s := &secured{demo: d, dir: filepath.Join(t.TempDir(), "secrets")}
	d.env = append(d.env, "COMPOSE_FILE=secure.yml:"+labelled(t, "consul", "haproxy"), "RMQ_SECRETS="+s.dir, "TLS_NAMES=mq.example 192.0.2.1", "RABBITMQ_IMAGE="+image)
	return s
}

// read takes up what scripts/up made.
func (s *secured) read() {
	s.Helper()
	for file, take := range map[string]func([]byte) error{
		"secrets.json": func(text []byte) error { return json.Unmarshal(text, &s.store) },
		"ca.pem": func(text []byte) error {
			s.roots = x509.NewCertPool()
			if !s.roots.AppendCertsFromPEM(text) {
				return errors.New("no certificate")
			}
			return nil
		},
	} {
		text, err := os.ReadFile(filepath.Join(s.dir, file))
		if err == nil {
			err = take(text)
		}
		if err != nil {
			s.Fatalf("%s: %v", file, err)
		}
	}
	s.secrets = nil
	for name, value := range s.store {
		switch value := value.(type) {
		case string:
			if name != "user" {
				s.secrets = append(s.secrets, value)
			}
		case map[string]any:
			for _, token := range value {
				s.secrets = append(s.secrets, token.(string))
			}
		}
	}
	if len(s.secrets) != 11 {
		s.Fatalf("there are %d secrets", len(s.secrets))
	}
	s.password = s.store["password"].(string)
	s.tokens = s.as(s.store["management"].(string))
}

// as is a client of Consul with a token.
func (s *secured) as(token string) *api.Client {
	s.Helper()
	client, err := api.NewClient(&api.Config{
		Address: fmt.Sprintf("https://127.0.0.1:%d", s.ports["CONSUL"]), Token: token,
		TLSConfig: api.TLSConfig{CAFile: filepath.Join(s.dir, "ca.pem")},
	})
	if err != nil {
		s.Fatal(err)
	}
	return client
}

// node1 is rabbitmq1's container, also when it is stopped.
func (s *secured) node1() string {
	s.Helper()
	return s.docker("ps", "-aq", "--filter", "label=com.docker.compose.project="+s.project, "--filter", "label=com.docker.compose.service=rabbitmq1")
}

// address of a node in the cluster's network.
func (s *secured) address(service string) string {
	s.Helper()
	return s.docker("inspect", "-f", `{{(index .NetworkSettings.Networks "`+s.project+`_cluster").IPAddress}}`, s.node(service).container)
}

// whole waits until these nodes, and no others, are one cluster, each passes, and the balancer takes them. It returns the cluster's id.
func (s *secured) whole(nodes ...int) (id string) {
	s.Helper()
	var names []string
	for _, n := range nodes {
		names = append(names, fmt.Sprintf("rabbit@rabbitmq%d", n))
	}
	runs := regexp.MustCompile(`(?m)^running +` + strings.Join(names, ", ") + `$`)
	s.eventually(150*time.Second, fmt.Sprintf("one cluster of %v", names), func() error {
		id = ""
		for _, name := range names {
			out, err := s.node(strings.TrimPrefix(name, "rabbit@")).tryExec("rmq-entrypoint", "status")
			if err != nil {
				return err
			}
			m := onRecord.FindStringSubmatch(out)
			if m == nil || !runs.MatchString(out) || !passes.MatchString(out) || strings.Count(out, "\n  member ") != len(nodes) || id != "" && m[1] != id {
				return fmt.Errorf("%s says:\n%s", name, out)
			}
			id = m[1]
		}
		return s.up(len(nodes))
	})
	return id
}

// up fails unless the balancer calls so many servers up, for AMQP and for management.
func (s *secured) up(want int) error {
	client := http.Client{Timeout: slow(5 * time.Second)}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/;csv", s.ports["HAPROXY_STATS"]))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	for _, kind := range []string{"amqp", "management"} {
		up := 0
		for line := range strings.Lines(string(text)) {
			if f := strings.Split(line, ","); len(f) > 18 && f[0] == kind && f[1] != "FRONTEND" && f[1] != "BACKEND" && strings.HasPrefix(f[17], "UP") {
				up++
			}
		}
		if up != want {
			return fmt.Errorf("%d servers of %s are up, want %d", up, kind, want)
		}
	}
	return nil
}

// channel uses one through the balancer, whose node shows a certificate for a name that clients know it by.
func (s *secured) channel(use func(*amqp.Channel) error) error {
	conn, err := amqp.DialConfig(fmt.Sprintf("amqps://admin:%s@127.0.0.1:%d/", s.password, s.ports["HAPROXY"]), amqp.Config{
		Dial: amqp.DefaultDial(slow(5 * time.Second)), TLSClientConfig: &tls.Config{RootCAs: s.roots, ServerName: "mq.example"},
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	if _, err := ch.QueueDeclare("secure", true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		return err
	}
	return use(ch)
}

// publish has a message confirmed, by whichever node does it.
func (s *secured) publish(text string) {
	s.Helper()
	s.eventually(time.Minute, "a message is confirmed", func() error {
		return s.channel(func(ch *amqp.Channel) error {
			if err := ch.Confirm(false); err != nil {
				return err
			}
			confirm, err := ch.PublishWithDeferredConfirm("", "secure", false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(text)})
			if err != nil {
				return err
			}
			select {
			case <-confirm.Done():
				if !confirm.Acked() {
					return errors.New("it is refused")
				}
				return nil
			case <-time.After(slow(10 * time.Second)):
				return errors.New("no confirm came")
			}
		})
	})
}

// consume takes messages off the queue.
func (s *secured) consume(count int) (texts []string) {
	s.Helper()
	s.eventually(time.Minute, "messages", func() error {
		return s.channel(func(ch *amqp.Channel) error {
			for len(texts) < count {
				m, ok, err := ch.Get("secure", true)
				if err != nil || !ok {
					return fmt.Errorf("after %q there is none: %v", texts, err)
				}
				texts = append(texts, string(m.Body))
			}
			return nil
		})
	})
	return texts
}

// with is the demo with further variables.
func (d *demo) with(env ...string) *demo {
	other := *d
	other.env = append(slices.Clip(d.env), env...)
	return &other
}
