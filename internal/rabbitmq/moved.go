package rabbitmq

import (
	"fmt"
	"strings"
)

// RefuseMoved refuses what has RabbitMQ keep data where its variables do not say, by terms on the
// server's command line: they win over those (measured on 4.3.6; wal_data_dir read in Ra, the
// library of quorum queues). Its args are the server's.
func RefuseMoved(args, environ []string) error {
	if flag, instead := moves(args); flag != "" {
		return fmt.Errorf("rabbitmq-server %s: %s: take it out of the command, and set %s instead", flag, elsewhere, instead)
	}
	set := byName(environ)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !hasFlags(name, set) {
			continue
		}
		if flag, instead := moves(strings.Fields(value)); flag != "" {
			return fmt.Errorf("%s has %s: %s: take it out of it, and set %s instead", name, flag, elsewhere, instead)
		}
	}
	return nil
}

const elsewhere = "RabbitMQ would keep its data, or a part of it, where rmq-entrypoint does not look, and the node would be taken for one that lost them"

// moves returns which of the words, as -mnesia dir, moves RabbitMQ's data, and the variable that says
// where to. One flag may set several keys, and a value may have spaces in it: each word up to the
// next flag is taken for a key.
func moves(words []string) (flag, instead string) {
	app := ""
	for _, word := range words {
		word = strings.Trim(word, `"'\`) // a shell takes quotes off
		if strings.HasPrefix(word, "-") {
			app = word
			continue
		}
		switch flag = app + " " + word; flag {
		case "-mnesia dir", "-rabbit data_dir":
			return flag, "RABBITMQ_MNESIA_DIR"
		case "-ra data_dir", "-ra wal_data_dir":
			return flag, "RABBITMQ_QUORUM_DIR"
		case "-osiris data_dir":
			return flag, "RABBITMQ_STREAM_DIR"
		}
	}
	return "", ""
}
