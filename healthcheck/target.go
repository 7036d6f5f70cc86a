package healthcheck

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ways are how a check may get in, and when it tries to.
type ways struct {
	urls    []string
	targets []target // of urls
	ports   map[int]Port
	entered map[string]bool // URLs at which the check got in since [Checker.Ready]
	now     func() time.Time
	pauses  Pauses
	refused Result // while pauses are not over
	unread  string // why certificates could not be read again, as the log was told
}

// A Port is where RabbitMQ on this host, by its own list, takes AMQP connections.
type Port struct {
	Host  string // an address of this host; empty: 127.0.0.1
	TLS   bool
	Proxy bool // by the PROXY protocol only, which a check then speaks
}

// A target is one parsed URL.
type target struct {
	url   string
	uri   amqp.URI
	addr  string
	label string // URL without credentials, for people
	tls   *tls.Config
	sasl  []amqp.Authentication
	proxy bool // the PROXY protocol comes first
}

func parse(raw string) (target, error) {
	uri, err := amqp.ParseURI(raw)
	if err != nil {
		// url.Error repeats the URL and its cause may repeat a part of it, with the password.
		if errors.As(err, new(*url.Error)) {
			err = errors.New("does not parse; a user name or password with reserved characters must be percent-encoded")
		}
		return target{}, err
	}
	addr := net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port))
	t := target{url: raw, uri: uri, addr: addr, label: uri.Scheme + "://" + addr}
	for _, m := range uri.AuthMechanism {
		switch strings.ToUpper(m) {
		case "PLAIN":
			t.sasl = append(t.sasl, uri.PlainAuth())
		case "AMQPLAIN":
			t.sasl = append(t.sasl, uri.AMQPlainAuth())
		case "EXTERNAL":
			t.sasl = append(t.sasl, &amqp.ExternalAuth{})
		default:
			return target{}, fmt.Errorf("unknown auth_mechanism %q", m)
		}
	}
	if t.sasl == nil {
		t.sasl = []amqp.Authentication{uri.PlainAuth()}
	}
	if uri.Scheme == "amqps" {
		conf, err := tlsFromURI(uri)
		if err != nil {
			return target{}, err
		}
		t.tls = local(conf, uri.Host)
	}
	return t, nil
}

// tlsFromURI reads the certificates that the URL names.
func tlsFromURI(uri amqp.URI) (*tls.Config, error) {
	conf := &tls.Config{ServerName: uri.ServerName}
	if uri.CACertFile != "" {
		pem, err := os.ReadFile(uri.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("read cacertfile: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read cacertfile: no certificate in %s", uri.CACertFile)
		}
	}
	if uri.CertFile != "" || uri.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(uri.CertFile, uri.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read certfile and keyfile: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// local returns conf for a connection to host, by the rule at Options.URLs.
func local(conf *tls.Config, host string) *tls.Config {
	conf = conf.Clone()
	if conf.ServerName != "" {
		return conf
	}
	conf.ServerName = host
	if host != "localhost" && !own(net.ParseIP(host)) {
		return conf
	}
	conf.InsecureSkipVerify = true // #nosec G402 -- to this host itself, by the rule at Options.URLs
	if roots := conf.RootCAs; roots != nil {
		conf.VerifyConnection = func(cs tls.ConnectionState) error {
			others := x509.NewCertPool()
			for _, cert := range cs.PeerCertificates[1:] {
				others.AddCert(cert)
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: others})
			return err
		}
	}
	return conf
}

// own reports whether ip is an address of this host.
func own(ip net.IP) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, _ := net.InterfaceAddrs() // those not known are not this host's
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip)
	})
}

// here reports whether host is this one, by an address or by its name.
func here(host string) bool {
	name, err := os.Hostname()
	return host == "localhost" || err == nil && host == name || own(net.ParseIP(host))
}

func parseAll(urls []string) (targets []target, err error) {
	for i, url := range urls {
		t, err := parse(url)
		if err != nil {
			return nil, fmt.Errorf("AMQP URL %d: %w", i+1, err)
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// shutOut says why the check does not get in where something listens and speaks, and which
// setting mends it; "" where that is not known.
func shutOut(t target, port Port, listed bool, err error) string {
	alert := alerted(err)
	var mend string
	switch {
	case !errors.As(err, new(*metError)), !alert && !listed:
		return ""
	case alert:
		mend = "the listener refuses the check's TLS, as where ssl_options.fail_if_no_peer_cert asks clients for a certificate: give it one, as RMQ_AMQP_URL=amqps://<user>:<password>@127.0.0.1:" + strconv.Itoa(t.uri.Port) + "?certfile=<file>&keyfile=<file>&cacertfile=<file>"
	case port.TLS && t.tls == nil:
		mend = "RabbitMQ speaks TLS there: write amqps:// in RMQ_AMQP_URL (--amqp-url)"
	case !port.TLS && t.tls != nil:
		mend = "RabbitMQ speaks no TLS there: write amqp:// in RMQ_AMQP_URL (--amqp-url)"
	case t.tls != nil && strings.Contains(err.Error(), "x509: "):
		mend = "RabbitMQ's certificate is not the one that is expected: set cacertfile and server_name_indication in RMQ_AMQP_URL (--amqp-url)"
	case errors.As(err, new(lateError)):
		mend = "RabbitMQ spoke, and the login took longer than the check waits, as where a server that rabbitmq_auth_backend asks is slow: name a user of RabbitMQ's own in RMQ_AMQP_URL (--amqp-url)"
	default:
		mend = "RabbitMQ listens there and does not let the check in, as with proxy_protocol or a limit of connections: give the check another way in as RMQ_AMQP_URL (--amqp-url)"
	}
	return fmt.Sprintf("%s: not checked further, but the node is alive: %s: %s", t.label, mend, text(err))
}

// astray says, of a URL that leads to where RabbitMQ by its own list does not listen, that the node
// is alive all the same; "" where it does not listen where it says either.
func (c *Checker) astray(ctx context.Context, t target, err error) string {
	at := c.knock(ctx)
	if at == "" {
		return ""
	}
	return fmt.Sprintf("%s: not checked further, but the node is alive: RabbitMQ does not listen there, but at %s: set RMQ_AMQP_URL (--amqp-url) to that, or take it away: %s", t.label, at, text(err))
}

// knockFor is plenty on this host, and does not show in the time that a check takes.
const knockFor = 200 * time.Millisecond

// knock returns the first address at which RabbitMQ says that it listens, and something takes a
// connection, which it tells nothing.
func (c *Checker) knock(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), knockFor)
	defer cancel()
	for _, port := range slices.Sorted(maps.Keys(c.ports)) {
		at := net.JoinHostPort(cmp.Or(c.ports[port].Host, "127.0.0.1"), strconv.Itoa(port))
		if conn, err := new(net.Dialer).DialContext(ctx, "tcp", at); err == nil {
			conn.Close()
			return at
		}
	}
	return ""
}

// reread takes the certificates that others may have replaced since. Where they cannot be read,
// half written perhaps, those from before stay.
func (c *Checker) reread() {
	for i, t := range c.targets {
		if t.tls == nil {
			continue
		}
		now, err := parse(t.url)
		switch {
		case err == nil:
			c.targets[i], c.unread = now, ""
		case err.Error() != c.unread:
			c.unread = err.Error()
			c.log.Warn("cannot read the certificates of the health check again: it goes by those it has", "err", err)
		}
	}
}

// notAllowed says what a server means that lets a user in and opens no virtual host to it, and what
// to do. RabbitMQ says so of its limits with the same code (530), in these words from 3.10 to 4.3; a
// node's own limit it tells since 4.0 at the latest: a listener of 3.10 lets who is one too many wait.
func notAllowed(t target, word string) string {
	what, do := fmt.Sprintf("virtual host %q is not open to user %q", t.uri.Vhost, t.uri.Username), "set RABBITMQ_DEFAULT_VHOST and RABBITMQ_DEFAULT_USER, or RMQ_AMQP_URL"
	switch {
	case strings.Contains(word, "node connection limit ("):
		what, do = "the limit of connections of this node is reached", "raise connection_max in rabbitmq.conf, or have clients close some"
	case strings.Contains(word, "user connection limit ("):
		what = fmt.Sprintf("the limit of connections of user %q is reached", t.uri.Username)
		do = "raise its max-connections (rabbitmqctl set_user_limits), or give the check a user of its own (RMQ_AMQP_URL)"
	case strings.Contains(word, "connection limit ("):
		what = fmt.Sprintf("the limit of connections to virtual host %q is reached", t.uri.Vhost)
		do = "raise its max-connections (rabbitmqctl set_vhost_limits), or give the check another virtual host (RABBITMQ_DEFAULT_VHOST, RMQ_AMQP_URL)"
	case strings.Contains(word, "connection limit cannot be queried"):
		what, do = fmt.Sprintf("RabbitMQ cannot tell whether the limit of connections to virtual host %q is reached", t.uri.Vhost), "wait, it is asked again"
	}
	return what + ", so the node is alive and not checked further: " + do
}
