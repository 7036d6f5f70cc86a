package policy

import (
	"slices"
	"strings"
	"time"
)

// lonePhases are the rules of a lone broker, which is in no cluster and not in Consul.
var lonePhases = map[Phase]phase{
	Serving: {rules: []rule{
		{"checkFails", checkFails},
		{"notAlone", notAlone},
		{"healthyAlone", healthyAlone},
	}},
	Booting: {rules: []rule{
		{"servesUnheard", servesUnheard},
		{"lastWord", lastWord},
	}},
	Stopped: {all: true, rules: []rule{
		{"servesUnheard", servesUnheard},
		{"stopHangs", stopHangs},
		{"lastWord", lastWord},
	}},
}

func (set Settings) phases() map[Phase]phase {
	if set.Single {
		return lonePhases
	}
	return phases
}

// aloneEvery is how often RabbitMQ is asked whether it still is alone.
const aloneEvery = 5 * time.Minute

// notAlone: RabbitMQ lists other members. Nobody here keeps a cluster together, so it serves
// nobody.
func notAlone(t *turn) Verdict {
	v, own := &t.State.View, t.Seen.Nodes[t.Node].View
	switch due := !t.State.Server.Located || t.Seen.Now.Sub(v.At) >= aloneEvery; {
	case due && !own.Asked:
		return ask(Question{What: AskView, Node: t.Node, Within: t.TTL / 2})
	case own.Asked && own.Err != nil && v.At.IsZero():
		return critical("whether it is alone is not known: %v", own.Err)
	case own.Asked && own.Err == nil:
		*v = View{own.Value, t.Seen.Now, t.Seen.Now, 0, ""}
		t.State.Server.Located = true
	}
	if others := slices.DeleteFunc(slices.Clone(v.Members), func(n string) bool { return n == t.Node }); len(others) > 0 {
		return critical("NOT ALONE: RabbitMQ lists %s beside this node, and --single (RMQ_SINGLE) is for a lone broker: nobody keeps that cluster together. Take --single out on all its nodes", strings.Join(others, ", "))
	}
	return Verdict{}
}

// healthyAlone: nothing is wrong but what the check says.
func healthyAlone(t *turn) Verdict {
	v := healthy(t)
	v.Reason = "a lone broker (--single), in no cluster: " + v.Reason
	return v
}
