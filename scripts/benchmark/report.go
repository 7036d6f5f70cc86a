package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// What -write changes, relative to the root of the repository: what is between the two marks, and the whole graph.
const (
	document  = "docs/performance.md"
	graphFile = "docs/performance.svg"
)

// A place is the two lines of the document between which a table goes.
type place struct{ begin, end string }

var (
	figures = place{"<!-- scripts/bench -write: begin -->", "<!-- scripts/bench -write: end -->"}
	fleets  = place{"<!-- scripts/bench -only scale -write: begin -->", "<!-- scripts/bench -only scale -write: end -->"}
)

// longestLine is what a line of the documentation may have, in characters.
const longestLine = 100

// A unit is what values of a row are in; the graph has those in seconds of waiting.
type unit string

const (
	seconds      unit = "s"
	milliseconds unit = "ms"
	mebibytes    unit = "MiB"
	cpuSeconds   unit = "CPU s"
	times        unit = ""
)

// show returns a value with its unit, to three digits.
func (u unit) show(v float64) string { return strings.TrimSpace(number(v) + " " + string(u)) }

func number(v float64) string {
	switch {
	case v >= 99.95 || v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// A row is one thing measured: its values by kind, the load before each, and what failed.
type row struct {
	What   string
	Unit   unit
	values map[kind][]float64
	loads  []float64
	errs   map[kind][]string
}

func (r *row) add(k kind, value, load float64) {
	if r.values == nil {
		r.values = map[kind][]float64{}
	}
	r.values[k] = append(r.values[k], value)
	r.loads = append(r.loads, load)
}

func (r *row) fail(k kind, round int, err error) {
	if r.errs == nil {
		r.errs = map[kind][]string{}
	}
	r.errs[k] = append(r.errs[k], fmt.Sprintf("round %d: %v", round, err))
}

// last is the value that was added last, for people.
func (r *row) last(k kind) string {
	if n := len(r.values[k]); n > 0 {
		return r.Unit.show(r.values[k][n-1])
	}
	return "?"
}

// median of values; of an even number, the middle of the two in the middle. There must be one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// cell is the median of a kind, and the least and the most; how many rounds gave one, if not all did.
func (r *row) cell(k kind) string {
	var words []string
	values, failed := r.values[k], len(r.errs[k])
	switch {
	case len(values) == 1:
		words = append(words, r.Unit.show(values[0]))
	case len(values) > 1:
		words = append(words, fmt.Sprintf("%s (%s–%s)", r.Unit.show(median(values)), number(slices.Min(values)), number(slices.Max(values))))
	case failed == 0:
		return "–"
	}
	if failed > 0 {
		words = append(words, fmt.Sprintf("%d of %d failed", failed, failed+len(values)))
	}
	return strings.Join(words, ", ")
}

// ratio is that of our median to another kind's.
func (r *row) ratio(to kind) string {
	if len(r.values[ours]) == 0 || len(r.values[to]) == 0 || median(r.values[to]) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", median(r.values[ours])/median(r.values[to]))
}

// A report is what a run found out, and on what machine.
type report struct {
	Rounds   int
	RabbitMQ string // version
	CPUs     int
	Load     float64 // before anything was started
	Day      time.Time
	Mounted  bool
	Rows     []*row
}

// failed returns a line for each round that was no figure.
func (r report) failed() (all []string) {
	for _, row := range r.Rows {
		for _, k := range []kind{bare, plugin, ours} {
			for _, err := range row.errs[k] {
				all = append(all, fmt.Sprintf("%s: %s, %s", row.What, k, err))
			}
		}
	}
	return all
}

// markdown is the table, with what it was measured on before it, and what failed behind it.
func (r report) markdown() string {
	var b strings.Builder
	about := fmt.Sprintf("Measured on %s with RabbitMQ %s on %d CPUs, whose load was %.2f before the first round. Rounds: %d.",
		r.Day.Format("2006-01-02"), r.RabbitMQ, r.CPUs, r.Load, r.Rounds)
	if r.Mounted {
		about += " Directories of the images were mounted from the host (`-mount`)."
	}
	b.WriteString(wrap(about, ""))
	b.WriteString("\n| median (least–most) | RabbitMQ alone | its Consul plugin | rmq-entrypoint | to alone | to plugin | load |\n")
	b.WriteString("|---|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		load := "–"
		if len(row.loads) > 0 {
			load = fmt.Sprintf("%.2f", median(row.loads))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", row.What, row.cell(bare), row.cell(plugin), row.cell(ours), row.ratio(bare), row.ratio(plugin), load)
	}
	if failed := r.failed(); len(failed) > 0 {
		b.WriteString("\nRounds that failed, and are in no median:\n\n")
		for _, line := range failed {
			b.WriteString(wrap(plain(line), "- "))
		}
	}
	return b.String()
}

// plain is a text of others' on one line, of a length to read, without what Markdown would take for its own.
func plain(text string) string {
	text = strings.Join(strings.Fields(strings.NewReplacer("|", " ", "<", " ", ">", " ", "[", "(", "]", ")", "`", "'").Replace(text)), " ")
	if runes := []rune(text); len(runes) > 300 {
		text = string(runes[:300]) + "…"
	}
	return text
}

// wrap breaks a text into lines of the documentation, the first of which begins with bullet.
func wrap(text, bullet string) string {
	var b strings.Builder
	line := bullet
	for word := range strings.FieldsSeq(text) {
		if blank := strings.TrimSpace(line) == strings.TrimSpace(bullet); !blank && len([]rune(line))+1+len([]rune(word)) > longestLine {
			b.WriteString(line + "\n")
			line = strings.Repeat(" ", len(bullet)) + word
		} else if blank {
			line += word
		} else {
			line += " " + word
		}
	}
	return b.String() + line + "\n"
}

// in returns the document with text at that place.
func (at place) in(document, text string) (string, error) {
	before, rest, begins := strings.Cut(document, at.begin)
	_, after, ends := strings.Cut(rest, at.end)
	if !begins || !ends {
		return "", fmt.Errorf("the document lacks the lines %q and %q, between which the table goes", at.begin, at.end)
	}
	return before + at.begin + "\n\n" + strings.TrimSpace(text) + "\n\n" + at.end + after, nil
}

// writable says what would keep a table from its place, before an hour of measuring.
func writable(places ...place) error {
	text, err := os.ReadFile(document)
	for _, at := range places {
		if err == nil {
			_, err = at.in(string(text), "")
		}
	}
	if err != nil {
		return fmt.Errorf("-write: %s: %w", document, err)
	}
	return nil
}

// write puts table and graph into the documentation. Without a figure to draw it changes nothing.
func (r report) write() error {
	text, err := os.ReadFile(document)
	if err != nil {
		return fmt.Errorf("-write: %w", err)
	}
	drawn := graph(r.Rows)
	if drawn == nil {
		return errors.New("-write: no figure in seconds, so there is nothing to draw: nothing was written")
	}
	changed, err := figures.in(string(text), r.markdown()+"\n![The medians in seconds, as bars](performance.svg)\n")
	if err != nil {
		return fmt.Errorf("-write: %s: %w", document, err)
	}
	for name, content := range map[string][]byte{graphFile: drawn, document: []byte(changed)} {
		if was, err := os.ReadFile(name); err == nil && bytes.Equal(was, content) {
			continue
		}
		if err := os.WriteFile(name, content, 0o644); err != nil { // #nosec G306 -- documentation is for everybody to read
			return fmt.Errorf("-write: %w", err)
		}
	}
	return nil
}
