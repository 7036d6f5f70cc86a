package rabbitconf

import "strings"

// A PluginOption is one of RabbitMQ's own Consul plugin, or of what its discovery plugins have in
// common.
type PluginOption struct {
	Key      string // below cluster_formation, without the name or number of an element; "": only a variable
	Variable string // by which the plugin has it, too, with RABBITMQ_ before it or without; "": none
	Here     string // what to set instead
}

// PluginOptions are all that the plugin has (read in its schema and code: 3.10.8, 4.0.5 and 4.3.6).
// None of them does anything here. docs/from-the-plugin.md has the same table.
var PluginOptions = []PluginOption{
	{"peer_discovery_backend", "", "nothing: rmq-entrypoint is the image's ENTRYPOINT"},
	{"consul.host", "CONSUL_HOST", "CONSUL_HTTP_ADDR (--consul): agents as host:port, comma-separated"},
	{"consul.port", "CONSUL_PORT", "the port in CONSUL_HTTP_ADDR (--consul)"},
	{"consul.scheme", "CONSUL_SCHEME", "https:// before the address in CONSUL_HTTP_ADDR (--consul)"},
	{"consul.acl_token", "CONSUL_ACL_TOKEN", "CONSUL_HTTP_TOKEN, or CONSUL_HTTP_TOKEN_FILE"},
	{"consul.ssl_options", "", "CONSUL_CACERT, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME"},
	{"consul.svc", "CONSUL_SVC", "RMQ_SERVICE (--service)"},
	{"consul.cluster_name", "CLUSTER_NAME", "RMQ_SERVICE (--service): each cluster is a service of its own"},
	{"consul.svc_addr", "CONSUL_SVC_ADDR", "RMQ_ADVERTISE (--advertise)"},
	{"consul.svc_addr_nic", "CONSUL_SVC_ADDR_NIC", "RMQ_ADVERTISE (--advertise): the interface's name"},
	{"consul.svc_addr_auto", "CONSUL_SVC_ADDR_AUTO", "nothing: the route to Consul tells the address; or RMQ_ADVERTISE (--advertise)"},
	{"consul.svc_addr_use_nodename", "CONSUL_SVC_ADDR_NODENAME", "RMQ_ADVERTISE (--advertise): the host name"},
	{"consul.svc_port", "CONSUL_SVC_PORT", "nothing where RabbitMQ listens there; else RMQ_ADVERTISE (--advertise), as :35672"},
	{"consul.svc_id", "CONSUL_SVC_ID", "nothing: it is made of the service's and the node's name"},
	{"consul.svc_ttl", "CONSUL_SVC_TTL", "RMQ_TTL (--ttl), with its unit: 15s"},
	{"consul.deregister_after", "CONSUL_DEREGISTER_AFTER", "nothing: it is 5 minutes, or four TTLs if that is longer"},
	{"consul.svc_tags", "CONSUL_SVC_TAGS", "RMQ_TAGS (--tags)"},
	{"consul.svc_meta", "CONSUL_SVC_META", "RMQ_META (--meta)"},
	{"consul.use_longname", "CONSUL_USE_LONGNAME", "RABBITMQ_USE_LONGNAME (--long-names)"},
	{"consul.domain_suffix", "CONSUL_DOMAIN", "nothing: entries have the nodes' names; Consul's DNS domain is RMQ_DNS_DOMAIN (--dns-domain)"},
	{"consul.include_nodes_with_warnings", "CONSUL_INCLUDE_NODES_WITH_WARNINGS", "nothing: nodes that warn are there"},
	{"consul.lock_prefix", "CONSUL_LOCK_PREFIX", "RMQ_KEY_PREFIX (--key-prefix)"},
	{"consul.lock_wait_time", "LOCK_WAIT_TIME", "RMQ_WAIT_TIMEOUT (--wait-timeout), with its unit: 10m"},
	{"consul.lock_timeout", "", "RMQ_WAIT_TIMEOUT (--wait-timeout), with its unit: 10m"},
	{"registration.enabled", "", "nothing: every node is registered; rmq-entrypoint drain takes clients off one"},
	{"node_cleanup.interval", "CLEANUP_INTERVAL", "nothing: a node goes by rmq-entrypoint leave, or forget"},
	{"node_cleanup.only_log_warning", "CLEANUP_ONLY_LOG_WARNING", "nothing: a node goes by rmq-entrypoint leave, or forget"},
	{"proxy.http_proxy", "HTTP_PROXY", "HTTP_PROXY, as environment variable"},
	{"proxy.https_proxy", "HTTPS_PROXY", "HTTPS_PROXY, as environment variable"},
	{"proxy.proxy_exclusions", "PROXY_EXCLUSIONS", "NO_PROXY, as environment variable"},
}

// instead says what to set in place of a key below cluster_formation, or "".
func instead(key string) string {
	for _, o := range PluginOptions {
		if key == o.Key || strings.HasPrefix(key, o.Key+".") {
			return o.Here
		}
	}
	return ""
}

// PluginVariables returns, for people, the variables of the plugin's that are set and do nothing
// here, each with what to set instead. Those that are refused, or mean the same here, are left out.
func PluginVariables(getenv func(string) string) (set []string) {
	for _, o := range PluginOptions {
		switch {
		case o.Variable == "", strings.HasPrefix(o.Variable, "CLEANUP_"), strings.HasPrefix(o.Here, o.Variable+","):
			continue
		}
		for _, name := range []string{o.Variable, "RABBITMQ_" + o.Variable} {
			if value := getenv(name); value != "" && !strings.Contains(value, "://") { // as Docker and Kubernetes say where a service called consul is
				set = append(set, name+" (here "+o.Here+")")
			}
		}
	}
	return set
}
