package doctor

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

var said = regexp.MustCompile("\\| `([a-z]+)`: `([^`]+)` \\|$")

// The check-list for production has each thing that the check of that name warns of, in its words, and nothing that no
// check says.
func TestChecklist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operations.md")
	expect.Must(t, err)
	_, list, _ := strings.Cut(string(text), "\n### Before production\n")
	list, _, _ = strings.Cut(list, "\n## ")
	f := well()
	f.Server.Vitals.Value.Guest, f.Server.Vitals.Value.DiskLimit, f.Server.Vitals.Value.Memory = "true", 50_000_000, 9<<30
	f.Server.View.Value.Members, f.Server.View.Value.Running, f.Server.View.Value.Listeners[0].TLS = all3[:2], all3[:2], false
	f.Agents[0].ACL, f.Agents[0].Ahead, f.Host.Cookie.Value = false, time.Hour, "it is an example's"
	f.DNS, f.Host.Volume.On.Kind = DNS{}, "overlay"
	all := judge(f).Checks
	told := map[string]bool{} // what production says, in the list
	rows := 0
	for line := range strings.Lines(list) {
		m := said.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		rows++
		i := slices.IndexFunc(all, func(one Result) bool {
			return one.Check == m[1] && one.Is != OK && strings.Contains(one.Says+"\n"+one.Do, m[2])
		})
		if i < 0 {
			t.Errorf("doctor never says %q of %s: %s", m[2], m[1], line)
			continue
		}
		told[all[i].Says] = true
	}
	for _, one := range all {
		if one.Check == "production" && one.Is != OK && !told[one.Says] {
			t.Errorf("the check-list lacks what production says: %s", one.Says)
		}
	}
	if n := strings.Count(list, "\n|") - 2; rows != n || n < 8 { // without the head
		t.Errorf("%d of %d rows name a check", rows, n)
	}
}
