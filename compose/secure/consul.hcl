# HTTPS on 8501 for the network, plain HTTP within the container alone, and among servers only what a certificate of the
# same CA says. ACLs and the gossip key are in agent.json, which scripts/secrets makes.

ports {
  https    = 8501
  grpc     = -1
  grpc_tls = -1
  serf_wan = -1
}

addresses {
  http = "127.0.0.1"
}

tls {
  defaults {
    ca_file         = "/secrets/ca.pem"
    cert_file       = "/secrets/cert.pem"
    key_file        = "/secrets/key.pem"
    verify_outgoing = true
    tls_min_version = "TLSv1_2"
  }
  internal_rpc {
    verify_incoming        = true
    verify_server_hostname = true
  }
  # Who asks shows a token.
  https {
    verify_incoming = false
  }
}

performance {
  raft_multiplier = 1
}
