package rabbitmq

import (
	"embed"
	"fmt"
	"strings"

	"rmq-entrypoint/rabbitconf"
)

// Each .erl file is an expression as `rabbitmqctl eval` takes it. It begins with what
// it does, prints and takes, and which versions of RabbitMQ it knows.
//
//go:embed *.erl
var erlangFiles embed.FS

// A parameter is a variable of Erlang that an expression uses and does not bind.
type parameter struct {
	Name  string
	Value rabbitconf.Term
}

// erlang returns the expression in NAME.erl, without the lines that are comments,
// behind its parameters. A test compares each call with the parameters that the file declares.
func erlang(name string, parameters ...parameter) string {
	text, err := erlangFiles.ReadFile(name + ".erl")
	if err != nil {
		panic(err) // it was not built in
	}
	var b strings.Builder
	for _, p := range parameters {
		fmt.Fprintf(&b, "%s = %s, ", p.Name, rabbitconf.Text(p.Value))
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "%") {
			b.WriteString(line)
		}
	}
	return strings.TrimSpace(b.String())
}

// inTurn makes one expression of several, whose value is the last one's.
func inTurn(expressions ...string) string {
	for i, e := range expressions {
		expressions[i] = strings.TrimSuffix(e, ".")
	}
	return strings.Join(expressions, ", ") + "."
}
