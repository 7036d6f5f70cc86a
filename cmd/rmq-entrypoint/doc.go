// Rmq-entrypoint prepares one RabbitMQ node to join its cluster, then becomes it.
//
// usage: rmq-entrypoint [flags] [command]
//
//	(none), rabbitmq-server         start: find the cluster through Consul, then become the server
//	healthcheck [--started|--ready] is this container alive (--started: and was a member since its start; --ready: fit to serve)? exit 0 or 1
//	status [--json|--watch]         node, volume, cluster record, lock and catalog, for people; exit 0 fit, 1 not, 2 cannot tell
//	list [--json|--watch]           the whole cluster, a line a node, and what is wrong; exit status as that of status
//	doctor [--json]                 from this host outward: the first broken link, and the way out; exit 1: broken, 2: cannot be told
//	drain [--force] [--wait 5s]     take the node out of service before it is stopped: balancers, clients, queue leaders
//	leave [--force] [--wait 5s]     take it out of the cluster for good: replicas moved, off the record, forgotten, stopped
//	forget NODE [--force]           take another node, which is down for good, out of the cluster; --force: though queues are lost, or its life is unknown
//	force-boot --cluster-id ID      carry on from this node's copy when the majority is gone for good
//	forget-cluster --cluster-id ID  give up cluster ID, so that blank nodes found a new one; --force: though it cannot be told whether it runs
//	produce [MESSAGE]               send a message, or numbered ones, and wait for every confirm
//	consume                         receive messages; a dot in one is a second of work
//	compare LEDGER…                 count what was lost or duplicated, from the ledgers of the two
//	completion bash|zsh|fish        print a script that completes command lines in that shell
//	version, help [command]         help, and --help behind a command, explain that one
//	anything else                   is executed as it is
//
// Each setting: flag, environment variable, default. A flag wins over a variable.
//
//	--consul              CONSUL_HTTP_ADDR, CONSUL_ADDRESS  127.0.0.1:8500                                                       Consul agents, comma-separated, tried in this order
//	--service             RMQ_SERVICE                       rabbitmq                                                             service name: nodes with the same one are one cluster
//	--dns-server          RMQ_DNS_SERVER                    first of /etc/resolv.conf                                            DNS server (host:port) that knows Consul's domain
//	--dns-domain          RMQ_DNS_DOMAIN                    consul                                                               Consul's DNS domain
//	--node                RABBITMQ_NODENAME                 rabbit@<host name>                                                   node name, name@host
//	--long-names          RABBITMQ_USE_LONGNAME             false                                                                node names carry the full host name
//	--advertise           RMQ_ADVERTISE                     source of the route to Consul                                        IP address or host name to register, or the interface or subnet (10.0.0.0/24) to take it from, with :PORT where others reach AMQP at another one; with an agent on this host, by default the agent's own
//	--hosts               RMQ_HOSTS                         off                                                                  consul: nodes learn each other's addresses from Consul, so that their host names need not resolve; off: as the system resolves them
//	--tags                RMQ_TAGS                          none                                                                 tags of the node's services in Consul, comma-separated; SERVICE=TAG is one service's, as rabbitmq-management=urlprefix-/
//	--meta                RMQ_META                          none                                                                 meta of the node's services in Consul, key=value, comma-separated
//	--ttl                 RMQ_TTL                           15s                                                                  TTL of the health check and of the lock's session, 10s to 24h
//	--interval            RMQ_INTERVAL                      ttl / 3, at most 10s                                                 how often the companion looks at the node and tells Consul: 1s to a third of the TTL, at most 1m
//	--key-prefix          RMQ_KEY_PREFIX                    rmq-entrypoint                                                       prefix of the lock's and the cluster record's keys
//	--lock-delay          RMQ_LOCK_DELAY                    1s                                                                   how long the lock stays shut after its holder was lost, 1ms to 60s
//	--wait-timeout        RMQ_WAIT_TIMEOUT                  10m0s                                                                how long a blank node waits before it exits and is restarted
//	--join-timeout        RMQ_JOIN_TIMEOUT                  5m0s                                                                 how long a joiner may take to get ready before it is stopped and decides afresh
//	--claim-timeout       RMQ_CLAIM_TIMEOUT                 3 × ttl                                                              how long a dead seed's claim is left alone, and what DNS alone knows holds up a founding; over twice the TTL
//	--stop-timeout        RMQ_STOP_TIMEOUT                  12s                                                                  how long a server may take to stop before the companion ends it, 5s to 10m: less than what ends the container
//	--amqp-url            RMQ_AMQP_URL                      this node's listeners, with RABBITMQ_DEFAULT_USER, _PASS and _VHOST  what the health check connects to
//	--http                RMQ_HTTP                          :15690                                                               address of the companion's /ready
//	--admin               RMQ_ADMIN                         127.0.0.1:15689                                                      address of the companion's page of the whole cluster, for operators, its JSON and its metrics; off: there is none
//	--config              RMQ_CONFIG_FILE                   <state-dir>/rabbitmq.config                                          rabbitmq.config to write
//	--state-dir           RMQ_STATE_DIR                     /var/lib/rabbitmq/mnesia/<node>-entrypoint                           where this program keeps what it knows of the volume: on the volume
//	--queues              RMQ_QUEUES                        auto                                                                 auto: queues of a cluster that is founded with it survive the loss of a node (mirrored up to RabbitMQ 3.13, quorum queues from 4.0); off: as RabbitMQ has it
//	--cluster-name        RMQ_CLUSTER_NAME                  the service name, given at the founding alone                        name of the cluster in RabbitMQ's UI and metrics, given to it at each start
//	--single              RMQ_SINGLE                        false                                                                a lone broker for development, without Consul: it is in no cluster and registered nowhere, and its volume can be no member's
//	--force-boot          RMQ_FORCE_BOOT                    false                                                                carry on from this copy by itself when the majority is gone for good
//	--allow-version-jump  RMQ_ALLOW_VERSION_JUMP            false                                                                start where RabbitMQ does not support to: a jump of versions, a downgrade, a mix with other members
//	--log-level           RMQ_LOG_LEVEL                     info                                                                 debug, info, warn or error
//	--log-format          RMQ_LOG_FORMAT                    text                                                                 text or json
//
// Secrets have no flag. Each may be given as a file, by the name with _FILE:
//
//	RABBITMQ_ERLANG_COOKIE  secret all nodes share; written to the cookie file, never passed to the server's environment
//	CONSUL_HTTP_TOKEN       Consul ACL token; never passed to the server's environment
//	RMQ_AMQP_URL            may hold a password, unlike --amqp-url
//
//	RABBITMQ_DEFAULT_USER, _PASS, _VHOST  the health check's credentials, too, and the clients'
//	CONSUL_HTTP_SSL, CONSUL_CACERT, …     Consul's own variables for TLS, namespace and partition
//
// The clients' flags follow their name: command, flag, default. RMQ_BROKERS (or a file, RMQ_BROKERS_FILE) may hold
// passwords, unlike --brokers: amqp[s]://user:password@host[:port][/vhost].
//
//	produce, consume  --brokers     127.0.0.1:5672        brokers or balancers, comma-separated, tried in turn: host[:port] or a URL
//	produce, consume  --queue       my-queue              durable queue; declared where it is not there
//	produce, consume  --queue-type  the broker's default  classic or quorum, for a queue that is declared
//	produce, consume  --give-up     1m0s                  how long no broker may be reached before the command ends with status 1
//	produce, consume  --ledger      none                  file to write every confirm, or every message, down in; must not exist
//	produce, consume  --count       no end                end after so many messages
//	produce           --rate        100                   numbered messages a second; 0: as fast as they are confirmed
//	produce           --duration    until stopped         send numbered messages for so long
//	produce           --settle      30s                   how long to wait, at the end, for confirms that are missing
//	consume           --prefetch    1                     messages that are held unacknowledged at a time
//	consume           --idle        never                 end after so long without a message
//	compare           --max-gap     any                   longest time that may go by without a confirm
package main
