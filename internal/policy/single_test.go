package policy

import (
	"testing"
	"time"

	"rmq-entrypoint/healthcheck"
)

// A lone broker is judged by its own word, and Consul is asked nothing.
func TestSingle(t *testing.T) {
	t.Parallel()
	alone := func(f func(*world)) func(*world) {
		return func(w *world) {
			w.set.Single = true
			w.s.Membership, w.s.View, w.s.Server.Located = Membership{Role: "single"}, View{}, false
			w.known(viewOf("a", "a"))
			w.s.View = View{}
			f(w)
		}
	}
	const first = "ask view a within 7.5s; "
	run(t, []row{
		{"it serves", alone(func(*world) {}), first + "passing: a lone broker (--single), in no cluster: answers", func(w *world) string {
			_, next := w.beat(t)
			w.now = w.now.Add(aloneEvery)
			_, later := w.beat(t)
			return check(join(next) == "passing: a lone broker (--single), in no cluster: answers", "with each beat it asks: "+join(next),
				len(later) == 2, "it never asks again: "+join(later))
		}},
		{"an alarm", alone(func(w *world) { w.health = healthcheck.Result{State: healthcheck.Warning, Reason: "low on memory"} }),
			first + "warning: a lone broker (--single), in no cluster: low on memory", nil},
		{"it fails", alone(func(w *world) { w.health = healthcheck.Result{Reason: "refused"}; w.s.Server.Located = true }), "critical: refused", nil},
		{"not alone", alone(func(w *world) { w.known(viewOf("a,b", "a")); w.s.View = View{} }), first + "critical: NOT ALONE: RabbitMQ lists b beside this node*", nil},
		{"not said", alone(func(w *world) { w.views["a"] = Answer(w.views["a"].Value, errNot) }), first + "critical: whether it is alone is not known: no answer yet", nil},
		{"not said any more", alone(func(w *world) {
			w.s.View.At = began.Add(-time.Hour)
			w.views["a"] = Answer(w.views["a"].Value, errNot)
		}), first + "passing: a lone broker*", nil},
		{"it boots", alone(func(w *world) { w.s.Server.Phase = Booting }), "critical: *", nil},
		{"it stops", alone(func(w *world) { w.stops() }), "critical: stopped (stopping)", nil},
	})
}
