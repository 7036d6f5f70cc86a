package rabbitconf

// queueReplicas is the size that quorum queues grow to: with three replicas a
// queue outlives one of them. RabbitMQ grows to odd sizes only.
const queueReplicas = 3

// DeliveryLimitPolicy is the name of the operator policy by which no number of deliveries
// ends a message.
const DeliveryLimitPolicy = "rmq-entrypoint-delivery-limit"

// Queues returns the settings with which queues survive the loss of a node. Up to 3.13 it is
// a policy that does that, hence no setting. From 4.0 on quorum queues that were declared
// while there were few nodes grow onto later ones. The names in terms are those of
// rabbit.schema in 4.0.5 and 4.3.6.
//
// In a cluster that was founded with quorum queues, queues are quorum queues unless they say
// otherwise. In virtual hosts that are made there, they drop no message for having been
// delivered often, as classic queues drop none: RabbitMQ's own limit for quorum queues is 20
// (4.0.5 and 4.3.6). An operator policy sets that, because it adds to any policy of the
// user's. A limit of the user's, from a policy or from the queue's arguments, wins over -1
// (measured on both). No .conf file can say it: their schema takes positive numbers only.
func Queues(v Version, quorum bool) []Setting {
	if v.Mirrors() {
		return nil
	}
	const reconciliation = "quorum_queue.continuous_membership_reconciliation."
	settings := []Setting{
		{Key: "quorum_membership_reconciliation_enabled", Conf: reconciliation + "enabled", Value: Atom("true")},
		{Key: "quorum_membership_reconciliation_target_group_size", Conf: reconciliation + "target_group_size", Value: Int(queueReplicas)},
	}
	if !quorum {
		return settings
	}
	unlimited := Tuple{Binary(DeliveryLimitPolicy), List{
		Tuple{Binary("vhost_pattern"), String(".*")}, Tuple{Binary("queue_pattern"), Binary(".*")}, Tuple{Binary("delivery_limit"), Int(-1)},
	}}
	return append([]Setting{
		{Key: "default_queue_type", Value: Atom("rabbit_quorum_queue")},
		{Key: "default_policies", Value: List{Tuple{Atom("operator"), List{unlimited}}}},
	}, settings...)
}
