package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"rmq-entrypoint/rabbitconf"
)

// DefaultUser is the one that RabbitMQ makes on a blank volume.
func DefaultUser(getenv func(string) string) *url.Userinfo {
	return url.UserPassword(cmp.Or(RabbitMQs(getenv, "RABBITMQ_DEFAULT_USER"), "guest"), cmp.Or(RabbitMQs(getenv, "RABBITMQ_DEFAULT_PASS"), "guest"))
}

// UserFiles reads the user's own configuration files as that version of RabbitMQ does, where
// the environment says that they lie.
func UserFiles(getenv func(string) string, version rabbitconf.Version) (rabbitconf.User, error) {
	conf, err := rabbitconf.MainConf(cmp.Or(RabbitMQs(getenv, "RABBITMQ_CONFIG_FILE"), "/etc/rabbitmq/rabbitmq"))
	if err != nil {
		return rabbitconf.User{}, err
	}
	return rabbitconf.ReadUser(rabbitconf.Files{
		Conf: conf, ConfD: cmp.Or(RabbitMQs(getenv, "RABBITMQ_CONFIG_FILES"), "/etc/rabbitmq/conf.d/*.conf"),
		Advanced:  cmp.Or(RabbitMQs(getenv, "RABBITMQ_ADVANCED_CONFIG_FILE"), "/etc/rabbitmq/advanced.config"),
		Version:   version,
		LookupEnv: func(name string) (string, bool) { value := getenv(name); return value, value != "" },
	})
}

// Defaults returns getenv with what the user's files say of the default user and virtual host,
// where no variable does.
func Defaults(getenv func(string) string, user rabbitconf.User) func(string) string {
	keys := map[string]string{"RABBITMQ_DEFAULT_USER": "default_user", "RABBITMQ_DEFAULT_PASS": "default_pass", "RABBITMQ_DEFAULT_VHOST": "default_vhost"}
	return func(name string) string {
		value := getenv(name)
		if keys[name] != "" {
			value = RabbitMQs(getenv, name)
		}
		if value != "" || keys[name] == "" {
			return value
		}
		return user.Default(keys[name])
	}
}

// LoginEnv is the environment by which the health check logs in: RabbitMQ's, which takes its
// variables without RABBITMQ_ before their names, too, and this process's for settings of ours.
func LoginEnv(server Environment) func(string) string {
	return func(name string) string {
		if strings.HasPrefix(name, "RMQ_") {
			return os.Getenv(name)
		}
		return server.Of(name)
	}
}

// AMQPURLs returns where the health check connects: the setting, or this node's
// listeners, with the default user's credentials.
func AMQPURLs(cfg Config, getenv func(string) string) ([]string, error) {
	user := DefaultUser(getenv)
	given, err := Secret(getenv, "RMQ_AMQP_URL")
	if err != nil {
		return nil, err
	}
	if cfg.AMQPURL != "" {
		u, err := url.Parse(cfg.AMQPURL)
		if err != nil {
			return nil, errors.New("RMQ_AMQP_URL (--amqp-url) is not a URL")
		}
		// The setting is without its password, and a flag overrules the variable. In the
		// variable's file others may have replaced user and password since the start.
		_, flag := cfg.Flags["amqp-url"]
		v, err := url.Parse(given)
		switch {
		case !flag && given != "" && (err != nil || v.Host != u.Host):
			return nil, fmt.Errorf("RMQ_AMQP_URL_FILE holds another address than %s by now: put that back, or restart this container", u.Host)
		case err != nil || v.User == nil || v.Host != u.Host:
		case !flag, u.User != nil && v.User.Username() == u.User.Username():
			u.User = v.User
		}
		if u.User == nil {
			u.User = user
		}
		return []string{u.String()}, nil
	}
	vhost := url.PathEscape(cmp.Or(RabbitMQs(getenv, "RABBITMQ_DEFAULT_VHOST"), "/"))
	var urls []string
	for _, l := range cfg.Listeners {
		scheme := "amqp"
		if l.TLS {
			scheme = "amqps"
		}
		urls = append(urls, fmt.Sprintf("%s://%s@%s/%s", scheme, user, net.JoinHostPort(cmp.Or(l.Host, "127.0.0.1"), fmt.Sprint(l.Port)), vhost))
	}
	return urls, nil
}

// Secret returns the variable name, or what the file named by name_FILE holds.
func Secret(getenv func(string) string, name string) (string, error) {
	file := getenv(name + "_FILE")
	if file == "" {
		return getenv(name), nil
	}
	if getenv(name) != "" {
		return "", keepOne(name)
	}
	f, err := os.Open(file)
	return secretIn(f, name, err)
}

// secretIn returns what the file of a secret holds that was opened, or not.
func secretIn(f *os.File, name string, err error) (string, error) {
	var b []byte
	if err == nil {
		b, err = io.ReadAll(f)
		_ = f.Close()
	}
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w, as uid %d: let that uid read it, or correct the path", name, err, os.Geteuid())
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// errClosed: root without its rights may not look where it would have to look for links.
var errClosed = errors.New("closed to root, too")

// secretFor reads a secret as this process, before it becomes the user. Root
// reads no file to which somebody else could have led it: the error is errTheirs where that is the
// user himself, and a [NotFollowed] or errClosed where he may be able to read it.
func secretFor(name string, u User) (string, error) {
	if os.Geteuid() != 0 {
		return Secret(os.Getenv, name)
	}
	to, err := PathFor(os.Getenv(name+"_FILE"), u)
	if err != nil {
		return secretIn(nil, name, err)
	}
	f, err := to.open(u)
	switch {
	case errors.Is(err, errTheirs) || errors.As(err, new(NotFollowed)):
		return "", err
	case len(to.Rest) > 0 && errors.Is(err, fs.ErrPermission): // without CAP_DAC_OVERRIDE
		return "", fmt.Errorf("%w (%w)", errClosed, err)
	}
	return secretIn(f, name, err)
}

// ReadURL takes over what RMQ_AMQP_URL_FILE holds, once who was root while the settings were parsed
// has stepped down, by [WithSecrets]: before, a link in the file's place would have led root to any
// file.
func (cfg *Config) ReadURL(getenv func(string) string) error {
	if _, flag := cfg.Flags["amqp-url"]; flag || cfg.AMQPURL != "" {
		return nil
	}
	var err error
	if cfg.AMQPURL, err = Secret(getenv, "RMQ_AMQP_URL"); err != nil || cfg.AMQPURL == "" {
		return err
	}
	return cfg.port(getenv)
}

// Seclude keeps other processes of this one's user from reading its memory and its environment.
// What it executes is not secluded.
func Seclude() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // no kernel refuses
}

func keepOne(name string) error {
	return fmt.Errorf("both %s and %s_FILE are set: keep one", name, name)
}

// ParseAMQP judges the URL of a broker. Its errors repeat nothing of it, since it
// may hold a password.
func ParseAMQP(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "amqp" && u.Scheme != "amqps" || u.Hostname() == "" {
		return nil, errors.New("not amqp[s]://[user:password@]host[:port][/vhost]; reserved characters in a password are percent-encoded")
	}
	return u, validPort(cmp.Or(u.Port(), "5672"))
}

// HasPassword reports whether a URL holds a password, of its user or among its parameters, as that of
// a key.
func HasPassword(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	for name := range u.Query() {
		if secretNames.MatchString(name) {
			return true
		}
	}
	_, has := u.User.Password()
	return has
}

var secretNames = regexp.MustCompile(`(?i)pass|secret|token|pwd`)

// parameters are those of a broker's URL that AMQP clients go by here; none is a secret.
var parameters = []string{"cacertfile", "certfile", "keyfile", "server_name_indication", "auth_mechanism", "heartbeat", "connection_timeout", "channel_max"}

// withoutSecrets returns the URL of a broker without a password, and without what a client does not
// go by, of which any may be a secret; "" for what is no URL.
func withoutSecrets(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	query := strings.FieldsFunc(u.RawQuery, func(r rune) bool { return r == '&' })
	u.RawQuery = strings.Join(slices.DeleteFunc(query, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		name, err := url.QueryUnescape(name)
		return err != nil || !slices.Contains(parameters, name) || strings.Contains(kv, ";")
	}), "&")
	u.Fragment, u.RawFragment = "", ""
	return u.String()
}

// TokenReadOnce names, in this program's own environment, the file of Consul's token that could be
// read before the step down alone: what is put there later nobody sees.
const TokenReadOnce = "RMQ_ENTRYPOINT_TOKEN_READ_ONCE" // #nosec G101 -- the name of a variable

// WithSecrets reads the files of secrets, then calls drop, by which this process gives up rights.
// Files of secrets often are root's alone: the secret of a file that it cannot read any more goes
// into its environment, in place of the file's name. A file that it can still read stays one, and
// is read again when it has changed. A file that cannot be read before drop is an error that names
// it.
//
// The user is the one that this process becomes. Root reads no file that others could replace by a
// link: what the link leads to would be in that user's environment. He must be able to read it
// himself.
func WithSecrets(u User, drop func() error) error {
	held, led := map[string]string{}, map[string]error{}
	for _, s := range Secrets {
		if os.Getenv(s.Env+"_FILE") == "" {
			continue
		}
		text, err := secretFor(s.Env, u)
		switch {
		case errors.Is(err, errTheirs):
		case errors.As(err, new(NotFollowed)), errors.Is(err, errClosed):
			led[s.Env] = err
		case err != nil:
			return err
		default:
			held[s.Env] = text
		}
	}
	if err := drop(); err != nil {
		return err
	}
	for name, why := range led {
		if _, err := Secret(os.Getenv, name); err != nil {
			return fmt.Errorf("%w; %w", err, why)
		}
	}
	for name, text := range held {
		f, err := os.Open(os.Getenv(name + "_FILE"))
		if err == nil {
			_ = f.Close()
			continue
		}
		file := os.Getenv(name + "_FILE")
		if err := errors.Join(os.Setenv(name, text), os.Unsetenv(name+"_FILE")); err != nil {
			return fmt.Errorf("keep what %s_FILE holds: %w", name, err)
		}
		if name == "CONSUL_HTTP_TOKEN" {
			_ = os.Setenv(TokenReadOnce, file) // words rest on it alone
		}
	}
	// These stay files: the certificates and the key that Consul's client presents.
	for _, name := range []string{"CONSUL_CACERT", "CONSUL_CAPATH", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY"} {
		if path := os.Getenv(name); path != "" {
			f, err := os.Open(path)
			if err != nil {
				return fmt.Errorf("%s: %w, as uid %d: let that uid read it", name, err, os.Geteuid())
			}
			_ = f.Close()
		}
	}
	return nil
}
