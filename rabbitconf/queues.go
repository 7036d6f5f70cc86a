package rabbitconf

// queueReplicas is the size that quorum queues grow to: with three replicas a
// queue outlives one of them. RabbitMQ grows to odd sizes only.
const queueReplicas = 3

// Queues returns the settings with which queues survive the loss of a node: from
// 4.0 on, queues are quorum queues unless they say otherwise, and those declared
// while there were few nodes grow onto later ones. Up to 3.13 it is a policy that
// does that, hence no setting. The names in terms are those of rabbit.schema in
// 4.0.5 and 4.3.6.
func Queues(v Version) []Setting {
	if v.Mirrors() {
		return nil
	}
	const reconciliation = "quorum_queue.continuous_membership_reconciliation."
	return []Setting{
		{Key: "default_queue_type", Value: Atom("rabbit_quorum_queue")},
		{Key: "quorum_membership_reconciliation_enabled", Conf: reconciliation + "enabled", Value: Atom("true")},
		{Key: "quorum_membership_reconciliation_target_group_size", Conf: reconciliation + "target_group_size", Value: Int(queueReplicas)},
	}
}
