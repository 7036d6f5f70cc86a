package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"rmq-entrypoint/rabbitconf"
)

// DefaultUser is the one that RabbitMQ makes on a blank volume.
func DefaultUser(getenv func(string) string) *url.Userinfo {
	return url.UserPassword(cmp.Or(getenv("RABBITMQ_DEFAULT_USER"), "guest"), cmp.Or(getenv("RABBITMQ_DEFAULT_PASS"), "guest"))
}

// UserFiles reads the user's own configuration files, where RabbitMQ looks for them.
func UserFiles(getenv func(string) string) (rabbitconf.User, error) {
	conf, err := rabbitconf.MainConf(cmp.Or(getenv("RABBITMQ_CONFIG_FILE"), "/etc/rabbitmq/rabbitmq"))
	if err != nil {
		return rabbitconf.User{}, err
	}
	return rabbitconf.ReadUser(conf, cmp.Or(getenv("RABBITMQ_CONFIG_FILES"), "/etc/rabbitmq/conf.d"), cmp.Or(getenv("RABBITMQ_ADVANCED_CONFIG_FILE"), "/etc/rabbitmq/advanced.config"))
}

// Defaults returns getenv with what the user's files say of the default user and virtual host,
// where no variable does.
func Defaults(getenv func(string) string, user rabbitconf.User) func(string) string {
	keys := map[string]string{"RABBITMQ_DEFAULT_USER": "default_user", "RABBITMQ_DEFAULT_PASS": "default_pass", "RABBITMQ_DEFAULT_VHOST": "default_vhost"}
	return func(name string) string {
		if value := getenv(name); value != "" || keys[name] == "" {
			return value
		}
		return user.Default(keys[name])
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
		// The setting without its password tells whether it came from the variable,
		// which a flag overrules.
		if v, err := url.Parse(given); err == nil && v.User != nil && u.User != nil && v.User.Username() == u.User.Username() && v.Host == u.Host {
			u.User = v.User
		}
		if u.User == nil {
			u.User = user
		}
		return []string{u.String()}, nil
	}
	vhost := url.PathEscape(cmp.Or(getenv("RABBITMQ_DEFAULT_VHOST"), "/"))
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
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
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

func HasPassword(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.User == nil {
		return false
	}
	_, has := u.User.Password()
	return has
}
