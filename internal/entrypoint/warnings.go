package entrypoint

import (
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/rabbitconf"
)

// longBoot is what RabbitMQ takes to boot and join on a busy host: 10 to 28 s were measured on two
// cores that had nothing else to do.
const longBoot = time.Minute

// warnOf tells of settings that are taken, and that nobody means: what a word stands for, and
// where a secret can be read on its way.
func warnOf(log *slog.Logger, cfg config.Config, getenv func(string) string) {
	if text := strings.TrimSpace(config.RabbitMQs(getenv, "RABBITMQ_USE_LONGNAME")); text != "" && !config.Yes(text) && !slices.Contains([]string{"0", "no", "false"}, strings.ToLower(text)) {
		log.Warn("RABBITMQ_USE_LONGNAME is off: RabbitMQ takes 1, yes and true for on, and everything else for off", "value", text)
	}
	if cfg.JoinTimeout < longBoot {
		log.Warn("--join-timeout (RMQ_JOIN_TIMEOUT) is shorter than RabbitMQ may take to boot: this node would be stopped before it has joined, at each start, and the cluster that counts it in may lack its vote", "join_timeout", cfg.JoinTimeout, "a_boot_may_take", longBoot)
	}
	if set := rabbitconf.PluginVariables(getenv); len(set) > 0 {
		log.Warn("variables of RabbitMQ's own Consul plugin are set, and do nothing: docs/from-the-plugin.md", "variables", strings.Join(set, "; "))
	}
	encrypted, _ := strconv.ParseBool(getenv("CONSUL_HTTP_SSL")) // what is neither true nor false was refused before
	if token := getenv("CONSUL_HTTP_TOKEN") + getenv("CONSUL_HTTP_TOKEN_FILE"); token != "" {
		for _, a := range cfg.Consul {
			if plain(a) && !encrypted {
				log.Warn("the Consul token goes over the network unencrypted: use https:// (CONSUL_HTTP_ADDR), or an agent on this host", "agent", a)
				break
			}
		}
	}
	if verify, err := strconv.ParseBool(getenv("CONSUL_HTTP_SSL_VERIFY")); err == nil && !verify {
		log.Warn("CONSUL_HTTP_SSL_VERIFY is off: whoever answers is taken for Consul; CONSUL_CACERT names whose certificates are")
	}
}

// plain reports whether an agent is on another host and is asked over http.
func plain(address string) bool {
	if strings.HasPrefix(address, "unix://") {
		return false
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "http" && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback()
}
