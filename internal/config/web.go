package config

import (
	"cmp"
	"slices"

	"rmq-entrypoint/peers"
	"rmq-entrypoint/rabbitconf"
)

// ListensWeb takes over where RabbitMQ says that its management and its Prometheus plugin listen,
// and reports whether that is other than what the settings say. One that it does not list stays
// where it is: it is not enabled, or has not begun.
func (cfg *Config) ListensWeb(at []peers.WebListener) (news bool) {
	for _, plugin := range []struct {
		name string
		at   *rabbitconf.Listener
	}{{"management", &cfg.Management}, {"prometheus", &cfg.Prometheus}} {
		var all []rabbitconf.Listener
		for _, l := range at {
			if l.Plugin == plugin.name {
				all = append(all, rabbitconf.Listener{Host: hostOf(l.IP), Port: l.Port, TLS: l.TLS})
			}
		}
		known := func(l rabbitconf.Listener) bool { return l.Port == plugin.at.Port && l.Local() == plugin.at.Local() }
		if len(all) == 0 || slices.ContainsFunc(all, known) {
			continue
		}
		*plugin.at = slices.MinFunc(all, func(a, b rabbitconf.Listener) int { // what others reach before what they do not
			return cmp.Or(first(!a.Local(), !b.Local()), first(!a.TLS, !b.TLS), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Host, b.Host))
		})
		news = true
	}
	return news
}
