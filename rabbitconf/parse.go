package rabbitconf

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of terms, and so the parser's stack.
const maxDepth = 1000

// parse reads the terms of a file as Erlang's file:consult does. Expressions,
// which RabbitMQ 3.10 and later would evaluate, are refused. Errors begin with
// the line.
func parse(src []byte) (terms []Term, err error) {
	text, err := decode(src)
	if err != nil {
		return nil, err
	}
	p := &parser{src: text, line: 1}
	defer func() {
		switch e := recover().(type) {
		case nil:
		case syntaxError:
			terms, err = nil, e
		default:
			panic(e)
		}
	}()
	for p.space(); p.pos < len(p.src); p.space() {
		terms = append(terms, p.term(0))
		p.space()
		if p.peek(0) != '.' || !p.endsTerm(p.pos+1) {
			p.fail(`expected ".", found %s`, p.found())
		}
		p.pos++
	}
	return terms, nil
}

type syntaxError string

func (e syntaxError) Error() string { return string(e) }

var encoding = regexp.MustCompile(`(?i)^[^\n%]*%[^\n]*coding[ \t]*[:=][ \t]*(utf-8|latin-1)|^[^\n]*\n[^\n%]*%[^\n]*coding[ \t]*[:=][ \t]*(utf-8|latin-1)`)

// decode takes a file for Latin-1 unless a comment on its first two lines says
// "coding: utf-8", as RabbitMQ does since it left file:consult (3.8) behind.
func decode(src []byte) ([]rune, error) {
	m := encoding.FindSubmatch(src)
	if m == nil || !strings.EqualFold(string(m[1])+string(m[2]), "utf-8") {
		text := make([]rune, len(src))
		for i, c := range src {
			text[i] = rune(c)
		}
		return text, nil
	}
	if !utf8.Valid(src) {
		return nil, syntaxError("line 1: says it is UTF-8 and is not")
	}
	return []rune(string(src)), nil
}

type parser struct {
	src  []rune
	pos  int
	line int
}

func (p *parser) fail(format string, args ...any) {
	panic(syntaxError(fmt.Sprintf("line %d: ", p.line) + fmt.Sprintf(format, args...)))
}

// peek returns the rune i places ahead, or 0 at the end.
func (p *parser) peek(i int) rune {
	if p.pos+i < len(p.src) {
		return p.src[p.pos+i]
	}
	return 0
}

func (p *parser) next() rune {
	if p.pos >= len(p.src) {
		p.fail("the file ends in the middle of a term")
	}
	r := p.src[p.pos]
	p.pos++
	if r == '\n' {
		p.line++
	}
	return r
}

// found describes what is next without quoting values, which may be secret.
func (p *parser) found() string {
	if p.pos >= len(p.src) {
		return "the end of the file"
	}
	return strconv.QuoteRune(p.src[p.pos])
}

func (p *parser) space() {
	for p.pos < len(p.src) && (blank(p.src[p.pos]) || p.src[p.pos] == '%') {
		if p.next() == '%' {
			for p.pos < len(p.src) && p.src[p.pos] != '\n' {
				p.pos++
			}
		}
	}
}

func blank(r rune) bool { return r <= ' ' || r >= 0x80 && r <= 0xA0 }

func (p *parser) endsTerm(i int) bool {
	return i >= len(p.src) || blank(p.src[i]) || p.src[i] == '%'
}

// accept takes token if it is next.
func (p *parser) accept(token string) bool {
	p.space()
	for i, r := range token {
		if p.peek(i) != r {
			return false
		}
	}
	p.pos += len(token)
	return true
}

func (p *parser) expect(token string) {
	if !p.accept(token) {
		p.fail("expected %q, found %s", token, p.found())
	}
}

func (p *parser) term(depth int) Term {
	if depth > maxDepth {
		p.fail("terms nested more than %d deep", maxDepth)
	}
	p.space()
	switch r := p.peek(0); {
	case p.accept("{"):
		elems, _ := p.elements(depth, "}")
		return Tuple(elems)
	case p.accept("["):
		return p.list(depth)
	case p.accept("#{"):
		return p.mapping(depth)
	case p.accept("<<"):
		return p.binary()
	case r == '"':
		return String(p.strings())
	case r == '\'':
		return p.atom()
	case r == '-' || r == '+':
		return p.signed()
	case r == '$' || isDigit(r):
		return p.number()
	case startsAtom(r):
		name := p.atom()
		if name == "fun" {
			return p.fun()
		}
		if slices.Contains(reserved, string(name)) && name != "maybe" && name != "else" {
			p.fail("%q is a reserved word; quote it to make it an atom", name)
		}
		return name
	case r == '_' || r >= 'A' && r <= 'Z':
		p.fail("variables and expressions are not terms")
	}
	p.fail("expected a term, found %s", p.found())
	return nil
}

// elements reads terms up to end, or to a bar where that is a list's. The
// opening is already taken.
func (p *parser) elements(depth int, end string) (terms []Term, bar bool) {
	terms = []Term{}
	if p.accept(end) {
		return terms, false
	}
	for {
		terms = append(terms, p.term(depth+1))
		if p.accept(end) {
			return terms, false
		}
		if end == "]" && p.accept("|") {
			return terms, true
		}
		p.expect(",")
	}
}

func (p *parser) list(depth int) Term {
	terms, bar := p.elements(depth, "]")
	elems := List(terms)
	if !bar {
		return elems
	}
	tail := p.term(depth + 1)
	p.expect("]")
	switch tail := tail.(type) {
	case List: // [a|[b]] is [a,b]
		return append(elems, tail...)
	case improper:
		return improper{append(elems, tail.elems...), tail.tail}
	}
	return improper{elems, tail}
}

func (p *parser) mapping(depth int) Term {
	pairs := mapping{}
	if p.accept("}") {
		return pairs
	}
	for {
		key := p.term(depth + 1)
		p.expect("=>")
		pairs = append(pairs, Tuple{key, p.term(depth + 1)})
		if p.accept("}") {
			return pairs
		}
		p.expect(",")
	}
}

// binary reads segments: strings, with /utf8 or without, and bytes. Sizes and
// other types are refused, for nobody writes them into a configuration.
func (p *parser) binary() Term {
	bytes := Binary{}
	if p.accept(">>") {
		return bytes
	}
	for {
		p.space()
		if p.peek(0) == '"' {
			s := p.strings()
			if p.accept("/") {
				if p.space(); p.atom() != "utf8" {
					p.fail("of the types of a binary's segments, only utf8 is understood")
				}
				bytes = append(bytes, s...)
			} else {
				for _, r := range s {
					bytes = append(bytes, byte(r))
				}
			}
		} else {
			var n Term
			if r := p.peek(0); r == '-' || r == '+' {
				n = p.signed()
			} else if r == '$' || isDigit(r) {
				n = p.number()
			}
			i, ok := n.(Int)
			if !ok {
				p.fail("expected a string or a byte in a binary, found %s", p.found())
			}
			bytes = append(bytes, byte(i))
		}
		if p.accept(">>") {
			return bytes
		}
		if p.space(); p.peek(0) == ':' || p.peek(0) == '/' {
			p.fail("sizes and types of a binary's segments are not understood")
		}
		p.expect(",")
	}
}

// strings reads one string, or several in a row, which Erlang joins.
func (p *parser) strings() string {
	var s strings.Builder
	for p.space(); p.peek(0) == '"'; p.space() {
		if p.peek(1) == '"' && p.peek(2) == '"' {
			p.fail("triple-quoted strings are not understood")
		}
		s.WriteString(p.quoted())
	}
	return s.String()
}

func (p *parser) quoted() string {
	mark := p.next()
	var s strings.Builder
	for {
		switch r := p.next(); r {
		case mark:
			return s.String()
		case '\\':
			s.WriteRune(p.escape())
		default:
			s.WriteRune(r)
		}
	}
}

// escape reads what follows a backslash.
func (p *parser) escape() rune {
	r := p.next()
	if i := strings.IndexRune("bdefnrstv", r); i >= 0 {
		return []rune("\b\x7f\x1b\f\n\r \t\v")[i]
	}
	switch {
	case r >= '0' && r <= '7':
		n := r - '0'
		for i := 0; i < 2 && p.peek(0) >= '0' && p.peek(0) <= '7'; i++ {
			n = n*8 + p.next() - '0'
		}
		return n
	case r == '^':
		return p.next() & 0x1f
	case r == 'x':
		digits := ""
		if p.peek(0) == '{' {
			for p.next(); p.peek(0) != '}'; {
				digits += string(p.next())
			}
			p.next()
		} else {
			digits = string(p.next()) + string(p.next())
		}
		n, err := strconv.ParseUint(digits, 16, 31)
		if err != nil || !utf8.ValidRune(rune(n)) {
			p.fail(`what follows \x is not a character`) // not quoted: it may be half of a password
		}
		return rune(n)
	}
	return r
}

func (p *parser) atom() Atom {
	if p.peek(0) == '\'' {
		return Atom(p.quoted())
	}
	start := p.pos
	for startsAtom(p.peek(0)) || p.peek(0) == '_' || p.peek(0) == '@' || isDigit(p.peek(0)) ||
		p.peek(0) >= 'A' && p.peek(0) <= 'Z' || p.peek(0) >= 0xC0 && p.peek(0) <= 0xDE && p.peek(0) != 0xD7 {
		p.pos++
	}
	return Atom(p.src[start:p.pos])
}

func startsAtom(r rune) bool { return r >= 'a' && r <= 'z' || r >= 0xDF && r <= 0xFF && r != 0xF7 }
func isDigit(r rune) bool    { return r >= '0' && r <= '9' }

// fun reads a reference to a function, fun module:name/arity.
func (p *parser) fun() Term {
	name := func() Atom {
		p.space()
		a := p.atom()
		if a == "" {
			p.fail("of funs, only fun module:name/arity is a term")
		}
		return a
	}
	ref := funRef{module: name()}
	p.expect(":")
	ref.name = name()
	p.expect("/")
	p.space()
	if isDigit(p.peek(0)) {
		ref.arity, _ = p.number().(Int)
	}
	return ref
}

func (p *parser) signed() Term {
	negative := p.next() == '-'
	p.space()
	if r := p.peek(0); r != '$' && !isDigit(r) {
		p.fail("expected a number after the sign, found %s", p.found())
	}
	n := p.number()
	if !negative {
		return n
	}
	switch n := n.(type) {
	case Int:
		return -n
	case bigInt:
		return integer("-"+string(n), 10)
	default:
		return -n.(Float)
	}
}

// number reads 42, 1_000, 16#ff, $c and 1.5e-3, all without a sign.
func (p *parser) number() Term {
	if p.peek(0) == '$' {
		p.next()
		if r := p.next(); r != '\\' {
			return Int(r)
		}
		return Int(p.escape())
	}
	digits := p.digits(isDigit)
	switch {
	case p.peek(0) == '#':
		p.next()
		base, _ := strconv.Atoi(digits)
		number := p.digits(func(r rune) bool {
			return isDigit(r) || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		})
		var n Term
		if base >= 2 && base <= 36 {
			n = integer(number, base)
		}
		if n == nil {
			p.fail("%.10s#%.40s is not a number", digits, number)
		}
		return n
	case p.peek(0) == '.' && isDigit(p.peek(1)):
		p.next()
		digits += "." + p.digits(isDigit)
		if e := p.peek(0); e == 'e' || e == 'E' {
			digits += string(p.next())
			if s := p.peek(0); s == '-' || s == '+' {
				digits += string(p.next())
			}
			digits += p.digits(isDigit)
		}
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil || math.IsInf(f, 0) {
			p.fail("%.40s is not a number", digits)
		}
		return Float(f)
	}
	return integer(digits, 10)
}

// digits drops the underscores that may stand between two digits.
func (p *parser) digits(is func(rune) bool) string {
	var s strings.Builder
	for is(p.peek(0)) || p.peek(0) == '_' && s.Len() > 0 && is(p.peek(1)) {
		if r := p.next(); r != '_' {
			s.WriteRune(r)
		}
	}
	return s.String()
}

// integer returns nil if digits are not all of that base.
func integer(digits string, base int) Term {
	n, ok := new(big.Int).SetString(digits, base)
	switch {
	case !ok:
		return nil
	case n.IsInt64():
		return Int(n.Int64())
	}
	return bigInt(n.String())
}
