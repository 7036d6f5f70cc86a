package peers

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// What others wrote gets onto terminals and into logs: these two make it fit to be read there.

// mostListed is how many names a list for people has.
const mostListed = 10

// Some lists names for people: ten at most, and how many more there are.
func Some(names []string) string { return SomeWith(names, ", ") }

// SomeWith does so with another word between two names.
func SomeWith(names []string, between string) string {
	if len(names) <= mostListed {
		return strings.Join(names, between)
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:mostListed], between), len(names)-mostListed)
}

// Plain returns text as one line without control characters, which could have a terminal do
// something, or begin a line of their own: each is written as Go writes it in a string. What is
// no UTF-8, or turns the order of writing, is none either.
func Plain(text string) string {
	if !strings.ContainsFunc(text, odd) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if odd(r) {
			quoted := strconv.QuoteToASCII(string(r))
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// odd reports whether a character is not to be printed as it is.
func odd(r rune) bool {
	return r == unicode.ReplacementChar || !unicode.IsPrint(r)
}
