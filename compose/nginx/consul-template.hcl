# Writes the nodes that Consul calls healthy into nginx's configuration, and reloads nginx when they change. Consul's
# address is CONSUL_HTTP_ADDR.

consul {
  retry {
    attempts    = 0 # while Consul is away, what was written last stays
    backoff     = "250ms"
    max_backoff = "5s"
  }
}

# One reload for changes that come together.
wait {
  min = "1s"
  max = "5s"
}

template {
  source      = "/etc/nginx/nodes.ctmpl"
  destination = "/etc/nginx/nodes.conf"
}

exec {
  command       = ["nginx", "-g", "daemon off;"]
  reload_signal = "SIGHUP"
  kill_signal   = "SIGQUIT"
  kill_timeout  = "8s" # less than Docker gives it
}
