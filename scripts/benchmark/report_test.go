package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rmq-entrypoint/tests/expect"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 100}, 3}, {[]float64{2, 1}, 1.5}} {
		was := slices.Clone(c.values)
		if got := median(c.values); got != c.want || !slices.Equal(was, c.values) {
			t.Errorf("%v: %v, want %v; it leaves %v", was, got, c.want, c.values)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0.4321: "0.43", 9.994: "9.99", 9.996: "10.0", 12.34: "12.3", 99.94: "99.9", 99.96: "100", 60: "60", 123.4: "123"} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

// measured is a report of two rows that are drawn, and one that is not.
func measured() report {
	cold := &row{What: "3 blank nodes at once", Unit: seconds}
	for i, v := range []float64{10, 12, 11} {
		cold.add(bare, v, float64(i))
		cold.add(ours, 2*v, float64(i))
	}
	cold.add(plugin, 16, 0)
	cold.fail(plugin, 2, errors.New("after 30s not yet: 3 nodes run in one cluster: in that of rabbit1 run `rabbit@rabbit1`, <rabbit|rabbit2>\nand "+strings.Repeat("more ", 100)))
	join := &row{What: "a third & last joins", Unit: seconds}
	join.add(ours, 8, 1)
	memory := &row{What: "memory", Unit: mebibytes}
	memory.add(ours, 9.5, 1)
	never := &row{What: "never", Unit: milliseconds}
	never.fail(ours, 1, errors.New("no go"))
	return report{Rounds: 3, RabbitMQ: "4.3.6", CPUs: 2, Load: 0.125, Day: time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC), Rows: []*row{cold, join, memory, never}}
}

func TestMarkdown(t *testing.T) {
	r := measured()
	got := r.markdown()
	expect.Says(t, got,
		"Measured on 2026-11-27 with RabbitMQ 4.3.6 on 2 CPUs, whose load was 0.12 before the first round.\nRounds: 3.",
		"\n| 3 blank nodes at once | 11 s (10–12) | 16 s, 1 of 2 failed | 22 s (20–24) | 2.00 | 1.38 | 1.00 |\n",
		"\n| a third & last joins | – | – | 8 s | – | – | 1.00 |\n",
		"\n| memory | – | – | 9.50 MiB | – | – | 1.00 |\n",
		"\n| never | – | – | 1 of 1 failed | – | – | – |\n",
		"\n- 3 blank nodes at once: plugin, round 2: after 30s not yet",
		"\n- never: ours, round 1: no go\n")
	for line := range strings.Lines(got) {
		if n := len([]rune(strings.TrimSpace(line))); !strings.HasPrefix(line, "|") && n > longestLine {
			t.Errorf("a line of %d characters: %s", n, line)
		}
		if cells := strings.Count(line, "|"); strings.HasPrefix(line, "|") && cells != 8 || !strings.HasPrefix(line, "|") && cells > 0 {
			t.Errorf("a line with %d bars: %s", cells, line)
		}
	}
	if strings.ContainsAny(got, "`<>[") || strings.Contains(got, "mounted") {
		t.Errorf("what others wrote is markup:\n%s", got)
	}
	if len(r.failed()) != 2 {
		t.Errorf("failed: %q", r.failed())
	}
	r.Mounted = true
	expect.Says(t, r.markdown(), "`-mount`")
}

func TestWrap(t *testing.T) {
	long := strings.Repeat("x", 120)
	for _, c := range [][3]string{
		{"a b", "- ", "- a b\n"},
		{strings.Repeat("abcd ", 20), "", strings.Repeat("abcd ", 19) + "abcd\n"},
		{strings.Repeat("abcd ", 21), "- ", "- " + strings.TrimSpace(strings.Repeat("abcd ", 19)) + "\n  abcd abcd\n"},
		{long + " b", "- ", "- " + long + "\n  b\n"},
	} {
		if got := wrap(c[0], c[1]); got != c[2] {
			t.Errorf("%q: %q, want %q", c[0], got, c[2])
		}
	}
}

// A svg is what the test reads of a graph.
type svg struct {
	Height int `xml:"height,attr"`
	Rects  []struct {
		Class string `xml:"class,attr"`
		Y     int    `xml:"y,attr"`
		Width string `xml:"width,attr"`
		Fill  string `xml:"fill,attr"`
	} `xml:"rect"`
	Texts []struct {
		X    int    `xml:"x,attr"`
		Text string `xml:",chardata"`
	} `xml:"text"`
	Paths []struct {
		D string `xml:"d,attr"`
	} `xml:"path"`
}

func TestGraph(t *testing.T) {
	var got svg
	expect.Must(t, xml.Unmarshal(graph(measured().Rows), &got))
	var widths, colours []string
	for _, r := range got.Rects {
		if w, _ := strconv.ParseFloat(r.Width, 64); w > width || r.Y > got.Height {
			t.Errorf("a rectangle out of the picture: %+v", r)
		}
		if r.Class == "bar" {
			widths, colours = append(widths, r.Width), append(colours, r.Fill)
		}
	}
	// The longest value is 24 s: so many pixels for each.
	var want []string
	for _, v := range []float64{11, 16, 22, 8} {
		want = append(want, fmt.Sprintf("%.1f", v*longest/24))
	}
	if !slices.Equal(widths, want) || !slices.Equal(colours, []string{series[0].colour, series[1].colour, series[2].colour, series[2].colour}) {
		t.Errorf("bars of %v in %v, want %v", widths, colours, want)
	}
	var words []string
	for _, text := range got.Texts {
		if words = append(words, text.Text); text.X > width-60 {
			t.Errorf("%q at %d is cut off", text.Text, text.X)
		}
	}
	if want := []string{"RabbitMQ alone", "its Consul plugin", "rmq-entrypoint", "3 blank nodes at once", "11 s", "16 s", "22 s", "a third & last joins", "8 s"}; !slices.Equal(words, want) {
		t.Errorf("it says %q", words)
	}
	if len(got.Paths) != 2 || got.Paths[0].D != fmt.Sprintf("M%.1f 82.0H%.1f", left+10*longest/24.0, left+12*longest/24.0) {
		t.Errorf("lines from the least to the most: %v", got.Paths)
	}
	if graph(nil) != nil || graph(measured().Rows[2:]) != nil {
		t.Error("a graph of nothing")
	}
}

func TestWrite(t *testing.T) {
	t.Chdir(t.TempDir())
	expect.Must(t, os.Mkdir("docs", 0o755))
	r := measured()
	if err := writable(figures); err == nil {
		t.Error("writable without a document")
	}
	for _, text := range []string{"no marks\n", figures.begin + "\n", figures.end + "\n" + figures.begin + "\n"} {
		expect.Must(t, os.WriteFile(document, []byte(text), 0o644))
		if r.write() == nil || writable(figures) == nil {
			t.Errorf("%q was written to", text)
		}
		if is, _ := os.ReadFile(document); string(is) != text {
			t.Errorf("%q became %q", text, is)
		}
	}
	expect.Must(t, os.WriteFile(document, []byte("# Title\n\nbefore\n\n"+figures.begin+"\nold\n"+figures.end+"\n\nafter\n"), 0o644))
	if err := (report{Rows: r.Rows[2:]}).write(); err == nil {
		t.Error("nothing to draw was written")
	}
	expect.Must(t, errors.Join(writable(figures), r.write()))
	first, err := os.ReadFile(document)
	expect.Must(t, err)
	want := "# Title\n\nbefore\n\n" + figures.begin + "\n\n" + r.markdown() + "\n![The medians in seconds, as bars](performance.svg)\n\n" + figures.end + "\n\nafter\n"
	if string(first) != want {
		t.Errorf("it became\n%s\nwant\n%s", first, want)
	}
	drawn, err := os.ReadFile(filepath.Join("docs", "performance.svg"))
	if err != nil || string(drawn) != string(graph(r.Rows)) {
		t.Errorf("the graph: %v", err)
	}
	expect.Must(t, r.write())
	if again, _ := os.ReadFile(document); string(again) != want {
		t.Errorf("the second time it became\n%s", again)
	}
}
