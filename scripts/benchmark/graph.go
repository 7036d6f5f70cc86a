package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"slices"
)

// series are the kinds of bars, in their order, with what the legend calls them.
var series = []struct {
	kind         kind
	name, colour string
}{{bare, "RabbitMQ alone", "#9aa5b1"}, {plugin, "its Consul plugin", "#e0a030"}, {ours, "rmq-entrypoint", "#2367b0"}}

// Measures of the graph, in pixels.
const (
	width     = 760
	left      = 20
	longest   = 640 // bar; right of it there is room for its value
	barHeight = 16
	barStep   = 20
	rowGap    = 34 // for the name of the row
	legend    = 40
)

// graph draws what is in seconds as bars from zero, an SVG: a bar is the median, and the line in it goes from the least to
// the most. It is nil when there is nothing to draw.
func graph(rows []*row) []byte {
	most, drawn := 0.0, []*row{}
	for _, r := range rows {
		if r.Unit != seconds || len(r.values) == 0 {
			continue
		}
		drawn = append(drawn, r)
		for _, values := range r.values {
			most = max(most, slices.Max(values))
		}
	}
	if most <= 0 {
		return nil
	}
	var body bytes.Buffer
	y := legend
	for _, r := range drawn {
		y += rowGap
		text(&body, left, y-8, r.What)
		for _, s := range series {
			if values := r.values[s.kind]; len(values) > 0 {
				bar(&body, y, s.colour, values, longest/most)
				y += barStep
			}
		}
	}
	var b bytes.Buffer
	height := y + 20
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" font-family="sans-serif" font-size="13" fill="#1f2933">`+"\n",
		width, height, width, height)
	b.WriteString("<title>Medians in seconds: shorter is better</title>\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	for i, s := range series {
		x := left + i*190
		fmt.Fprintf(&b, `<rect x="%d" y="16" width="12" height="12" fill="%s"/>`+"\n", x, s.colour)
		text(&b, x+18, 27, s.name)
	}
	b.Write(body.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// bar draws one, with its line and its value; scale is pixels a second.
func bar(b *bytes.Buffer, y int, colour string, values []float64, scale float64) {
	m, least, most := median(values), slices.Min(values), slices.Max(values)
	fmt.Fprintf(b, `<rect class="bar" x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y, m*scale, barHeight, colour)
	if least < most {
		middle := float64(y) + barHeight/2
		fmt.Fprintf(b, `<path d="M%.1f %.1fH%.1f" stroke="#1f2933" stroke-width="1.5"/>`+"\n", left+least*scale, middle, left+most*scale)
	}
	text(b, left+int(most*scale)+6, y+13, seconds.show(m))
}

func text(b *bytes.Buffer, x, y int, words string) {
	fmt.Fprintf(b, `<text x="%d" y="%d">`, x, y)
	_ = xml.EscapeText(b, []byte(words)) // a Buffer takes everything
	b.WriteString("</text>\n")
}
