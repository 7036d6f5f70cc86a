package entrypoint

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/tests/expect"
)

func TestWarnOf(t *testing.T) {
	for _, c := range []struct {
		env  string
		want int // warnings
		say  string
	}{
		{env: "RABBITMQ_USE_LONGNAME=on", want: 1, say: "everything else for off"}, {env: "RABBITMQ_USE_LONGNAME=No"}, {env: "RABBITMQ_USE_LONGNAME=YES;RABBITMQ_NODENAME=a@b.c"},
		{env: "CONSUL_HTTP_TOKEN=s3cr3t;CONSUL_HTTP_ADDR=consul", want: 1, say: "unencrypted"}, {env: "CONSUL_HTTP_TOKEN_FILE=/x;CONSUL_HTTP_ADDR=127.0.0.1,10.0.0.1:8500", want: 1, say: "10.0.0.1:8500"},
		{env: "CONSUL_HTTP_TOKEN=s3cr3t"}, {env: "CONSUL_HTTP_TOKEN=s3cr3t;CONSUL_HTTP_ADDR=https://consul"}, {env: "CONSUL_HTTP_TOKEN=s3cr3t;CONSUL_HTTP_ADDR=unix:///x"},
		{env: "CONSUL_HTTP_TOKEN=s3cr3t;CONSUL_HTTP_ADDR=consul;CONSUL_HTTP_SSL=true"}, {env: "CONSUL_HTTP_ADDR=consul"},
		{env: "CONSUL_HOST=consul;CONSUL_ACL_TOKEN=s3cr3t", want: 1, say: "CONSUL_HOST (here CONSUL_HTTP_ADDR (--consul): agents as host:port, comma-separated); CONSUL_ACL_TOKEN (here CONSUL_HTTP_TOKEN, "},
		{env: "RABBITMQ_CONSUL_SVC=orders;CLUSTER_NAME=blue", want: 1, say: "RABBITMQ_CONSUL_SVC (here RMQ_SERVICE (--service)); CLUSTER_NAME (here RMQ_SERVICE"},
		{env: "CONSUL_PORT=tcp://10.0.0.1:8500;HTTP_PROXY=proxy:3128;CONSUL_HOST="}, // as Docker and Kubernetes name a service
		{env: "CONSUL_HTTP_SSL_VERIFY=false", want: 1, say: "CONSUL_CACERT"}, {env: "CONSUL_HTTP_SSL_VERIFY=0", want: 1, say: "CONSUL_CACERT"},
		{env: "CONSUL_HTTP_SSL_VERIFY=f", want: 1, say: "CONSUL_CACERT"}, {env: "CONSUL_HTTP_SSL_VERIFY=False", want: 1, say: "CONSUL_CACERT"},
		{env: "RMQ_JOIN_TIMEOUT=59s", want: 1, say: "shorter than RabbitMQ may take to boot"}, {env: "RMQ_JOIN_TIMEOUT=1m"},
		{env: "CONSUL_HTTP_SSL_VERIFY=1"}, {env: "CONSUL_HTTP_SSL_VERIFY=T"}, {env: "CONSUL_HTTP_SSL_VERIFY="},
		{env: "CONSUL_HTTP_TOKEN=s3cr3t;CONSUL_HTTP_ADDR=consul;CONSUL_HTTP_SSL=TRUE"}, {env: "CONSUL_HTTP_TOKEN=s3cr3t;CONSUL_HTTP_ADDR=consul;CONSUL_HTTP_SSL=t"},
		{env: "CONSUL_HTTP_TOKEN=s3cr3t;CONSUL_HTTP_ADDR=consul;CONSUL_HTTP_SSL=F", want: 1, say: "unencrypted"},
	} {
		getenv := expect.Environ(strings.Split(c.env, ";")...)
		cfg, err := config.FromEnvironment(getenv)
		expect.Must(t, err)
		var log bytes.Buffer
		warnOf(slog.New(slog.NewTextHandler(&log, nil)), cfg, getenv)
		if got := log.String(); strings.Count(got, "\n") != c.want || !strings.Contains(got, c.say) || strings.Contains(got, "s3cr3t") {
			t.Errorf("%s: %q", c.env, got)
		}
	}
}
