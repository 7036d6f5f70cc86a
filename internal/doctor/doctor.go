// Package doctor goes from this host outward and names the first broken link, with the way out:
// settings, volume, cookie, name, ports, Consul, DNS, record, members, RabbitMQ. It changes nothing.
//
//	look (all at once, 9 s at most) → Facts → judge (checks in order, pure) → Report → print
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/peers"
)

// Finding is how bad what a check saw is.
type Finding string

const (
	OK      Finding = "ok"
	Warning Finding = "warning" // works, and is better done otherwise
	Unknown Finding = "unknown" // cannot be told
	Broken  Finding = "broken"
)

// Result is one line of a check.
type Result struct {
	Check string  `json:"check"`
	Is    Finding `json:"result"`
	Says  string  `json:"says"`
	Do    string  `json:"do,omitempty"` // the way out
}

// Report is all that was seen. The first broken link comes first on the way outward: what is behind
// it may be broken for that alone.
type Report struct {
	Node   string   `json:"node"`
	Is     Finding  `json:"result"`
	First  *Result  `json:"first_broken,omitempty"`
	Checks []Result `json:"checks"`
}

// ErrBroken ends the program with status 1, ErrUnknown with 2, when what there is to say was said.
var (
	ErrBroken  = errors.New("something is broken")
	ErrUnknown = errors.New("something cannot be told")
)

// Run is `rmq-entrypoint doctor`. AsRoot says that this process began as root, as a start would,
// which gives the volume to rabbitmq.
func Run(ctx context.Context, cfg config.Config, asRoot, machine bool, out io.Writer) error {
	f := look(ctx, cfg)
	f.Host.AsRoot = asRoot
	r := judge(f)
	var err error
	if machine {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		err = r.print(out, colours(out))
	}
	switch {
	case err != nil:
		return err
	case r.Is == Broken:
		return ErrBroken
	case r.Is == Unknown:
		return ErrUnknown
	}
	return nil
}

// A check judges what was seen of one link.
type check struct {
	name    string
	cluster bool // it is about Consul and a cluster, which a lone broker has none of
	says    func(f Facts) []Result
}

// checks are in the order from this host outward.
var checks = []check{
	{"settings", false, settings},
	{"volume", false, volume},
	{"cookie", false, cookie},
	{"name", false, name},
	{"ports", false, ports},
	{"consul", true, agents},
	{"clock", true, clock},
	{"dns", true, dns},
	{"record", true, record},
	{"foreign", true, foreign},
	{"members", true, members},
	{"companion", false, companionCheck},
	{"rabbitmq", false, broker},
	{"balancer", true, balancer},
	{"production", false, production},
}

func judge(f Facts) Report {
	r := Report{Node: f.Config.Node, Is: OK}
	for _, c := range checks {
		if c.cluster && f.Config.Single {
			continue
		}
		for _, one := range c.says(f) {
			one.Check, one.Says, one.Do = c.name, peers.Plain(one.Says), peers.Plain(one.Do)
			r.Checks = append(r.Checks, one)
		}
	}
	for _, is := range []Finding{Unknown, Broken} {
		if i := slices.IndexFunc(r.Checks, func(one Result) bool { return one.Is == is }); i >= 0 {
			if r.Is = is; is == Broken {
				r.First = &r.Checks[i]
			}
		}
	}
	return r
}

// marks are how a result looks: sign, and colour on a terminal.
var marks = map[Finding][2]string{OK: {"ok", "32"}, Warning: {"!", "33"}, Unknown: {"?", "33"}, Broken: {"BROKEN", "31;1"}}

// print shows the report on one screen. The ways out stand under what is not well.
func (r Report) print(out io.Writer, coloured bool) error {
	paint := func(is Finding, text string) string {
		if !coloured {
			return text
		}
		return "\x1b[" + marks[is][1] + "m" + text + "\x1b[0m"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	was := ""
	for _, one := range r.Checks {
		name := one.Check
		if name == was {
			name = ""
		}
		was = one.Check
		fmt.Fprintf(w, "%s\t%s\t%s\n", paint(one.Is, marks[one.Is][0]), name, one.Says)
		if one.Do != "" && one.Is != OK {
			fmt.Fprintf(w, "%s\t\t→ %s\n", paint(one.Is, ""), one.Do)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	warnings := 0
	for _, one := range r.Checks {
		if one.Is == Warning {
			warnings++
		}
	}
	end := paint(OK, "nothing is broken")
	if warnings > 0 {
		end = fmt.Sprintf("%s; warnings: %d", end, warnings)
	}
	switch {
	case r.First != nil:
		end = paint(Broken, "FIRST BROKEN: "+r.First.Check) + ": " + r.First.Says
	case r.Is == Unknown:
		end = paint(Unknown, "nothing seen is broken; not all can be told")
	}
	_, err := io.WriteString(out, b.String()+end+"\n")
	return err
}

// colours reports whether out is a terminal that shows them.
func colours(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// one is a check's only result.
func one(is Finding, do, format string, args ...any) []Result {
	return []Result{{Is: is, Says: fmt.Sprintf(format, args...), Do: do}}
}
