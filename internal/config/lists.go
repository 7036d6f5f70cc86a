package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A list is a setting of several items, comma-separated. A flag that is given again adds to it.
type list struct {
	p     *[]string
	given bool // the default is gone
}

func (l *list) Type() string { return "stringSlice" }

func (l *list) String() string {
	if l.p == nil {
		return ""
	}
	return joined(*l.p)
}

func (l *list) Set(text string) error {
	if !l.given {
		*l.p, l.given = []string{}, true
	}
	*l.p = append(*l.p, items(text)...)
	return nil
}

// pairs are a list of key=value.
type pairs struct {
	p     *map[string]string
	given bool
}

func (m *pairs) Type() string { return "stringToString" }

func (m *pairs) String() string {
	if m.p == nil {
		return ""
	}
	var all []string
	for _, k := range slices.Sorted(maps.Keys(*m.p)) {
		all = append(all, k+"="+(*m.p)[k])
	}
	return joined(all)
}

func (m *pairs) Set(text string) error {
	all := items(text)
	if strings.Count(text, "=") == 1 && !enclosed(text) { // one pair, whatever is in its value
		all = []string{strings.TrimSpace(text)}
	}
	read := map[string]string{}
	for _, item := range all {
		k, v, ok := strings.Cut(item, "=")
		if !ok {
			return fmt.Errorf(`%q is no key=value; give them as zone=a,disk=ssd, and one with a comma in its value in quotes, as "note=a,b",zone=a`, item)
		}
		read[k] = v
	}
	if !m.given {
		*m.p, m.given = map[string]string{}, true
	}
	maps.Copy(*m.p, read)
	return nil
}

// items returns the items of a text, without blanks around them. One that is in quotes as a whole
// is what they enclose, commas and blanks included, where "" is a quote; any other quote is itself.
func items(text string) (all []string) {
	if text == "" {
		return nil
	}
	for {
		item, rest, more := quoted(text)
		if !more && rest != "" { // not in quotes as a whole
			item, rest, more = strings.Cut(text, ",")
			item = strings.TrimSpace(item)
		}
		if all = append(all, item); !more {
			return all
		}
		text = rest
	}
}

// enclosed reports whether the whole of a text is one item in quotes.
func enclosed(text string) bool {
	_, rest, more := quoted(text)
	return rest == "" && !more
}

// quoted returns what is in quotes at the beginning of a text, and what follows a comma after it. A
// rest without a comma before it is all of the text: it does not begin with an item in quotes.
func quoted(text string) (item, rest string, more bool) {
	from, ok := strings.CutPrefix(strings.TrimSpace(text), `"`)
	if !ok {
		return "", text, false
	}
	for {
		before, after, closed := strings.Cut(from, `"`)
		item += before
		again, double := strings.CutPrefix(after, `"`)
		if closed && double {
			item, from = item+`"`, again
			continue
		}
		switch after = strings.TrimSpace(after); {
		case closed && after == "":
			return item, "", false
		case closed && after[0] == ',':
			return item, after[1:], true
		}
		return "", text, false
	}
}

// joined is the text of items, as they are set.
func joined(all []string) string {
	texts := slices.Clone(all)
	for i, item := range texts {
		if strings.Contains(item, ",") || strings.HasPrefix(item, `"`) || strings.TrimSpace(item) != item {
			texts[i] = `"` + strings.ReplaceAll(item, `"`, `""`) + `"`
		}
	}
	return strings.Join(texts, ",")
}
