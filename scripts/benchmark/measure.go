package main

import (
	"context"
	"fmt"
	"time"
)

// measuring is a run: it takes measurements in the lab, and leaves rows in the report.
type measuring struct {
	*lab
	report *report
	rounds int
}

// compare takes one measurement of each kind a round, by turns, so that what changes on the machine meanwhile changes
// for all of them. A round that fails is told and goes on with the next: only the end of ctx ends it.
func (m *measuring) compare(ctx context.Context, r *row, kinds []kind, one func(context.Context, kind) (float64, error)) error {
	m.report.Rows = append(m.report.Rows, r)
	for round := range m.rounds {
		for _, k := range kinds {
			before, err := load()
			if err != nil {
				return err
			}
			value, err := func() (float64, error) {
				ctx, cancel := context.WithTimeout(ctx, hang)
				defer cancel()
				return one(ctx, k)
			}()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			where := fmt.Sprintf("%s: %s, round %d of %d", r.What, k, round+1, m.rounds)
			if err != nil {
				say("%s: FAILED: %v", where, err)
				r.fail(k, round+1, err)
				continue
			}
			say("%s: %s (load before it %.2f)", where, r.Unit.show(value), before)
			r.add(k, value, before)
		}
	}
	return nil
}

// cold: so many blank nodes at once, until the last one serves. A cluster that is none is no figure.
func (m *measuring) cold(ctx context.Context, n int) error {
	r := &row{What: fmt.Sprintf("%d blank nodes at once, until the last one serves", n), Unit: seconds}
	return m.compare(ctx, r, []kind{bare, plugin, ours}, func(ctx context.Context, k kind) (float64, error) {
		if err := m.fresh(ctx); err != nil {
			return 0, err
		}
		for i := range n {
			if err := m.create(ctx, k, i+1); err != nil {
				return 0, err
			}
		}
		took, err := m.lab.start(ctx, k, numbers(1, n)...)
		if err == nil && k != bare {
			err = m.whole(ctx, n)
		}
		return took, err
	})
}

// join: one more node, until it serves in a cluster of two that runs.
func (m *measuring) join(ctx context.Context) error {
	r := &row{What: "a third node joins two that run", Unit: seconds}
	return m.compare(ctx, r, []kind{bare, ours}, func(ctx context.Context, k kind) (float64, error) {
		if err := m.form(ctx, k, 2); err != nil {
			return 0, err
		}
		if err := m.create(ctx, k, 3, 1, 2); err != nil {
			return 0, err
		}
		took, err := m.lab.start(ctx, k, 3)
		if err == nil {
			err = m.whole(ctx, 3)
		}
		return took, err
	})
}

// restart: a cluster of three is stopped as a whole and started at once, until the last one serves.
func (m *measuring) restart(ctx context.Context) error {
	r := &row{What: "three stopped members start at once, until the last one serves", Unit: seconds}
	return m.compare(ctx, r, []kind{bare, ours}, func(ctx context.Context, k kind) (float64, error) {
		if err := m.form(ctx, k, 3); err != nil {
			return 0, err
		}
		if err := each(numbers(1, 3), func(n int) error { _, err := docker(ctx, "stop", "-t", "120", container(n)); return err }); err != nil {
			return 0, err
		}
		took, err := m.lab.start(ctx, k, numbers(1, 3)...)
		if err == nil {
			err = m.whole(ctx, 3)
		}
		return took, err
	})
}

// failover: kill -9 of the node that a producer is connected to, which leads the queue as well, until messages are
// confirmed again. The producer knows all three nodes, and there is no balancer.
func (m *measuring) failover(ctx context.Context) error {
	r := &row{What: "kill -9 of the node of a client, until the next confirm", Unit: seconds}
	return m.compare(ctx, r, []kind{bare, ours}, func(ctx context.Context, k kind) (float64, error) {
		if err := m.form(ctx, k, 3); err != nil {
			return 0, err
		}
		return m.killed(ctx)
	})
}

// killed has a producer send to a cluster of three, kills its node, and returns for how many seconds nothing was confirmed.
func (m *measuring) killed(ctx context.Context) (float64, error) {
	client := label + "-client"
	if _, err := docker(ctx, "run", "-d", "--name", client, "--label", label, "--network", label, "--no-healthcheck", "--entrypoint", "rmq-entrypoint",
		"-e", "RABBITMQ_DEFAULT_USER=bench", "-e", "RABBITMQ_DEFAULT_PASS="+m.password, m.image,
		"produce", "--brokers", "rabbit1,rabbit2,rabbit3", "--queue-type", "quorum", "--rate", "100", "--settle", "1m", "--ledger", "/tmp/ledger"); err != nil {
		return 0, err
	}
	// It is read in the container: docker cp would need a file here, and a mount one that the container may write.
	ledger := func() (string, error) { return docker(ctx, "exec", client, "cat", "/tmp/ledger") }
	flowing := func(after time.Time) error {
		return until(ctx, 2*time.Minute, "messages are confirmed", func() error {
			text, err := ledger()
			if err == nil {
				_, err = gap(text, after)
			}
			return err
		})
	}
	if err := flowing(time.Time{}); err != nil {
		return 0, err
	}
	if err := pause(ctx, 5*m.second); err != nil { // the queue has its replicas, and its first messages
		return 0, err
	}
	said, err := dockerLog(ctx, client, time.Unix(0, 0))
	if err != nil {
		return 0, err
	}
	victim, err := broker(said)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := docker(ctx, "kill", container(victim)); err != nil {
		return 0, err
	}
	// What was on its way may be confirmed after the order to kill. And nobody looks meanwhile: that would be measured, too.
	if err := pause(ctx, 15*m.second); err != nil {
		return 0, err
	}
	if err := flowing(began.Add(10 * m.second)); err != nil {
		return 0, err
	}
	text, err := ledger()
	if err != nil {
		return 0, err
	}
	longest, err := gap(text, began)
	return longest.Seconds(), err
}
