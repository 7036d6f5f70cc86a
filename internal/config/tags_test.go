package config

import (
	"slices"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// Tags are all services', as they always were, unless the name of one stands before them.
func TestTagsOf(t *testing.T) {
	for _, c := range []struct {
		service, tags                string
		node, management, prometheus []string
	}{
		{"", "", nil, nil, nil},
		{"", "production, ssd", []string{"production", "ssd"}, []string{"production", "ssd"}, []string{"production", "ssd"}},
		{"", "traefik.enable=true,proto=tcp", []string{"traefik.enable=true", "proto=tcp"}, []string{"traefik.enable=true", "proto=tcp"}, []string{"traefik.enable=true", "proto=tcp"}},
		{"", "rabbitmq-management=urlprefix-/,production, rabbitmq=amqp , rabbitmq-management=a=b", []string{"production", "amqp"}, []string{"production", "urlprefix-/", "a=b"}, []string{"production"}},
		{"", `"rabbitmq-prometheus=a,b"`, nil, nil, []string{"a,b"}},
		{"orders", "rabbitmq-management=a,orders-management=b", []string{"rabbitmq-management=a"}, []string{"rabbitmq-management=a", "b"}, []string{"rabbitmq-management=a"}},
	} {
		cfg, err := FromEnvironment(expect.Environ("RMQ_TAGS="+c.tags, "RMQ_SERVICE="+c.service))
		expect.Must(t, err)
		for service, want := range map[string][]string{"": c.node, "-management": c.management, "-prometheus": c.prometheus} {
			if got := cfg.TagsOf(cfg.Service + service); !slices.Equal(got, want) {
				t.Errorf("%q of %s%s: %q, want %q", c.tags, cfg.Service, service, got, want)
			}
		}
	}
	for tags, words := range map[string]string{
		"a,,b":                       "empty tag",
		"rabbitmq-management=":       "empty tag of service rabbitmq-management",
		"rabbitmq= ,a":               "empty tag of service rabbitmq",
		"rabbitmq-managment=a":       "this node has no service rabbitmq-managment in Consul, but rabbitmq, rabbitmq-management, rabbitmq-prometheus",
		"rabbitmq-stream=production": "no service rabbitmq-stream",
	} {
		if _, err := FromEnvironment(expect.Environ("RMQ_TAGS=" + tags)); err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "--tags (RMQ_TAGS)") {
			t.Errorf("%q: %v, want %q", tags, err, words)
		}
	}
}
