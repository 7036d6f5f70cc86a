package rabbitconf

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Term is an Erlang term as a configuration file can hold one.
type Term interface{ render(*strings.Builder) }

type (
	// Atom is an Erlang atom, unquoted.
	Atom string
	// Int is an Erlang integer.
	Int int64
	// Float is an Erlang float.
	Float float64
	// String is a double-quoted string, which is Erlang's list of code points.
	String string
	// Binary is a binary, whatever way it was written.
	Binary []byte
	// Tuple is {A,B}.
	Tuple []Term
	// List is a proper list.
	List []Term

	bigInt   string // decimal digits of what does not fit an Int
	improper struct {
		elems List
		tail  Term
	}
	mapping []Tuple // pairs; Erlang keeps the last of equal keys
	funRef  struct {
		module, name Atom
		arity        Int
	}
)

// Text returns t as Erlang reads it, in ASCII.
func Text(t Term) string {
	var b strings.Builder
	t.render(&b)
	return b.String()
}

func (t Atom) render(b *strings.Builder) {
	if plainAtom.MatchString(string(t)) && !slices.Contains(reserved, string(t)) {
		b.WriteString(string(t))
		return
	}
	quote(b, string(t), '\'')
}

func (t Int) render(b *strings.Builder)    { b.WriteString(strconv.FormatInt(int64(t), 10)) }
func (t bigInt) render(b *strings.Builder) { b.WriteString(string(t)) }
func (t String) render(b *strings.Builder) { quote(b, string(t), '"') }

// render adds the ".0" that Erlang needs and Go leaves out: 1e+21 is 1.0e+21.
func (t Float) render(b *strings.Builder) {
	digits, exponent, _ := strings.Cut(strconv.FormatFloat(float64(t), 'g', -1, 64), "e")
	if !strings.Contains(digits, ".") {
		digits += ".0"
	}
	b.WriteString(digits)
	if exponent != "" {
		b.WriteString("e" + exponent)
	}
}

// render writes text as text and everything else as numbers: how RabbitMQ
// decodes a byte above 127 in a string depends on its version.
func (t Binary) render(b *strings.Builder) {
	b.WriteString("<<")
	if slices.ContainsFunc(t, func(c byte) bool { return c < ' ' || c > '~' }) {
		for i, c := range t {
			comma(b, i)
			b.WriteString(strconv.Itoa(int(c)))
		}
	} else if len(t) > 0 {
		quote(b, string(t), '"')
	}
	b.WriteString(">>")
}

func (t Tuple) render(b *strings.Builder) { sequence(b, "{", t, "}") }
func (t List) render(b *strings.Builder)  { sequence(b, "[", t, "]") }

func (t improper) render(b *strings.Builder) {
	sequence(b, "[", t.elems, "|")
	t.tail.render(b)
	b.WriteByte(']')
}

func (t mapping) render(b *strings.Builder) {
	b.WriteString("#{")
	for i, pair := range t {
		comma(b, i)
		pair[0].render(b)
		b.WriteString(" => ")
		pair[1].render(b)
	}
	b.WriteByte('}')
}

func (t funRef) render(b *strings.Builder) {
	b.WriteString("fun ")
	t.module.render(b)
	b.WriteByte(':')
	t.name.render(b)
	b.WriteByte('/')
	t.arity.render(b)
}

func sequence(b *strings.Builder, begin string, terms []Term, end string) {
	b.WriteString(begin)
	for i, t := range terms {
		comma(b, i)
		t.render(b)
	}
	b.WriteString(end)
}

func comma(b *strings.Builder, i int) {
	if i > 0 {
		b.WriteByte(',')
	}
}

var (
	plainAtom = regexp.MustCompile(`^[a-z][A-Za-z0-9_]*$`)
	reserved  = strings.Fields(`after and andalso band begin bnot bor bsl bsr bxor case catch cond div
		else end fun if let maybe not of or orelse receive rem try when xor`)
)

// quote escapes atoms and strings alike, and it alone does. Its output is
// ASCII: RabbitMQ 3.8 reads a file as UTF-8, later ones as Latin-1.
func quote(b *strings.Builder, s string, mark rune) {
	b.WriteRune(mark)
	for _, r := range s {
		switch {
		case r == mark || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r >= ' ' && r <= '~':
			b.WriteRune(r)
		default:
			fmt.Fprintf(b, `\x{%X}`, r)
		}
	}
	b.WriteRune(mark)
}
