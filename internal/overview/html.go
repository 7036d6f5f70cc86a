package overview

import (
	_ "embed"
	"fmt"
	"html"
	"io"
	"strings"
)

// head is what stands before the page's title: it is the same for everybody.
//
//go:embed head.html
var head string

// A markup is a page as it is written. Not html/template: by its use of reflection the linker
// keeps every method of the program, 5 MB of it, for companions that show nobody a page.
type markup struct{ strings.Builder }

// add writes a constant format, and escapes each of the words that go into it, so that they are
// fit for text and for a quoted attribute.
func (m *markup) add(format string, words ...string) {
	escaped := make([]any, len(words))
	for i, w := range words {
		escaped[i] = html.EscapeString(w)
	}
	fmt.Fprintf(m, format, escaped...)
}

// HTML writes the document as a page without a script. All that others wrote is escaped.
func (d Document) HTML(w io.Writer) error {
	var m markup
	m.WriteString(head)
	m.add("<title>%s</title>\n</head>\n<body>\n", d.Title())
	m.add("<h1 class=\"%s\">%s</h1>\n<p>%s</p>\n", string(d.Fit), d.Title(), d.Headline())
	if d.Asked != "" {
		m.add("<p class=\"quiet\">as %s sees it</p>\n", d.Asked)
	}
	if len(d.Problems) > 0 {
		m.add("<h2>What is wrong</h2>\n<ul>\n")
		for _, p := range d.Problems {
			m.add("<li><b class=\"%s\">%s</b>: %s<br><small>next: %s</small></li>\n", p.Kind(), p.Kind(), p.What, p.Next)
		}
		m.add("</ul>\n")
	}
	m.add("<h2>Nodes</h2>\n<table>\n<thead><tr><th>node<th>state<th>since<th>role<th>RabbitMQ<th>address<th>heartbeat<th>volume</tr></thead>\n<tbody>\n")
	for _, n := range d.Nodes {
		m.node(n, d)
	}
	m.add("</tbody>\n</table>\n")
	if d.Cluster.More > 0 {
		m.add("<p class=\"quiet\">%s</p>\n", d.others())
	}
	m.add("<h2>May one be stopped now?</h2>\n<p><b class=\"%s\">%s</b>%s</p>\n", string(d.Stop.May), string(d.Stop.May), strings.TrimPrefix(d.Stop.Line(), string(d.Stop.May)))
	m.add("<p class=\"quiet\">The founding's lock is %s.</p>\n", d.Lock.line())
	if len(d.Gone) > 0 {
		m.add("<h2>Gone</h2>\n<ul>\n")
		for _, g := range d.Gone[:min(len(d.Gone), mostShown)] {
			m.add("<li>%s</li>\n", g.Line())
		}
		m.add("</ul>\n")
	}
	m.add("<p class=\"quiet\">%s UTC; it reads itself again every 10 s. The same for programs: <a href=\"cluster\">cluster</a>, <a href=\"metrics\">metrics</a></p>\n</body>\n</html>\n", d.At.Format("2006-01-02 15:04:05"))
	_, err := io.WriteString(w, m.String())
	return err
}

// node writes a row.
func (m *markup) node(n Node, d Document) {
	why := inCell(n.Why)
	if why != "" {
		why = ": " + why
	}
	m.add("<tr><td><b>%s</b><td data-is=\"state\"><b class=\"%s\">%s</b>%s", n.Node, string(n.State), string(n.State), why)
	for _, cell := range [][2]string{{"since", n.For(d.At)}, {"role", n.Role}, {"RabbitMQ", n.Version}, {"address", n.Address}, {"heartbeat", n.Heartbeat(d.At)}} {
		m.add("<td data-is=\"%s\">%s", cell[0], cell[1])
	}
	m.add("<td data-is=\"volume\"><small>%s</small></tr>\n", n.Volume)
}

// line says who holds it.
func (l Lock) line() string {
	switch l.Held {
	case Yes:
		return "held by " + l.Holder
	case No:
		return "free"
	}
	return "unknown"
}

// Title is the page's.
func (d Document) Title() string {
	text := map[Answer]string{Yes: "one cluster", No: "not one cluster", Unknown: "unknown"}[d.Cluster.One]
	if d.Cluster.One == Yes && d.Fit == No {
		text += ", and something is wrong"
	}
	return d.Cluster.Name + ": " + text
}
