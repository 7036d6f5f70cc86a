package entrypoint

import (
	"fmt"
	"log/slog"

	"rmq-entrypoint/internal/formation"
	"rmq-entrypoint/internal/statedir"
)

// defaultQueues returns the type, in the cluster of this node, of queues that name none, and
// keeps it on the volume. The seed decides it once for its cluster: a client that declares a
// queue when it starts would fail if the queue were there with another type. So the type is
// classic in a cluster that another program founded, and in one that was founded with a
// RabbitMQ, or with settings, under which queues were classic. A joiner takes what the
// members that it joins say, and a node with data what its volume says.
func defaultQueues(log *slog.Logger, h host, p formation.Plan) (string, error) {
	dir, blank := statedir.Of(h.rt.Config), h.state.Role == ""
	queues := p.Queues
	if decided := h.state.Queues; decided != nil && !blank {
		queues = decided.Default
	}
	if queues == "" {
		queues = undecidedQueues(h, blank)
	}
	if queues != statedir.Quorum && h.rt.Config.SurvivingQueues() && !h.version.Mirrors() {
		log.Info("queues that name no type are classic, as they were when this cluster was founded (--queues, RMQ_QUEUES)")
	}
	if err := dir.WriteQueues(statedir.Queues{Default: queues}); err != nil {
		return "", fmt.Errorf("write down what queues are by default: %w", err)
	}
	return queues, nil
}

// undecidedQueues is what a seed makes of its cluster, and what versions of this program
// made of theirs that kept nothing of it: a node with data that one of them started last,
// and a joiner whose members do not say, go on as it did.
func undecidedQueues(h host, blank bool) string {
	v := h.version
	if !blank {
		v = statedir.Of(h.rt.Config).LastRan().Version
	}
	switch {
	case h.state.Role == statedir.Member && h.state.Cluster == "":
		return statedir.Adopted
	case !h.rt.Config.SurvivingQueues() || v.Mirrors():
		return statedir.Classic
	}
	return statedir.Quorum
}
