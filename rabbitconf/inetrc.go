package rabbitconf

import "strings"

// Inetrc returns the contents of a file for ERL_INETRC that makes Erlang look a
// host name up in the file hosts, which need not be there, and then where the
// system does. Erlang reads a hosts_file that was replaced again, within 5 s
// (measured on OTP 25 and 29); one given as {file, hosts, …} it never does.
func Inetrc(hosts string) []byte {
	var b strings.Builder
	b.WriteString("%% Written by rmq-entrypoint at each start of this node: edits are lost.\n")
	for _, t := range []Tuple{
		{Atom("hosts_file"), String(hosts)},
		{Atom("lookup"), List{Atom("file"), Atom("native")}},
	} {
		t.render(&b)
		b.WriteString(".\n")
	}
	return []byte(b.String())
}
