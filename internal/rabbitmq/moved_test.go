package rabbitmq

import (
	"strings"
	"testing"
)

// Terms on the server's command line that move its data are refused with the variable that says it.
func TestRefuseMoved(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args, env string   // env: ; separates
		say       []string // none: taken
	}{
		{}, {args: "-ra wal_max_size_bytes 1 -rabbit dir x"}, {env: "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-mnesia dump_log_write_threshold 5 -x dir y"},
		{args: "-mnesia dir \"/d\"", say: []string{"rabbitmq-server -mnesia dir: ", "out of the command", "RABBITMQ_MNESIA_DIR"}},
		{env: "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2 -mnesia dir '\"/d\"'", say: []string{"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS has -mnesia dir", "RABBITMQ_MNESIA_DIR"}},
		{env: "SERVER_ADDITIONAL_ERL_ARGS=-ra data_dir \"/d\"", say: []string{"SERVER_ADDITIONAL_ERL_ARGS has -ra data_dir", "RABBITMQ_QUORUM_DIR"}},
		{env: "SERVER_ADDITIONAL_ERL_ARGS=-ra data_dir \"/d\";RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-x"}, // the script passes it over
		{env: "RABBITMQ_SERVER_ERL_ARGS=-ra wal_data_dir \"/d\"", say: []string{"RABBITMQ_SERVER_ERL_ARGS has -ra wal_data_dir", "RABBITMQ_QUORUM_DIR"}},
		{env: "RABBITMQ_SERVER_START_ARGS=-osiris data_dir \"/d\"", say: []string{"RABBITMQ_SERVER_START_ARGS has -osiris data_dir", "RABBITMQ_STREAM_DIR"}},
		{env: "ERL_FLAGS=-rabbit data_dir \"/d\"", say: []string{"ERL_FLAGS has -rabbit data_dir", "RABBITMQ_MNESIA_DIR"}},
		{env: "ERL_AFLAGS=-mnesia debug verbose dir \"/a b\"", say: []string{"ERL_AFLAGS has -mnesia dir"}}, // several keys of one flag
		{env: "ERL_ZFLAGS='-mnesia' 'dir' x", say: []string{"ERL_ZFLAGS has -mnesia dir"}}, {env: "ERL_OTP27_FLAGS=-mnesia dir x", say: []string{"ERL_OTP27_FLAGS"}},
		{env: "RABBITMQ_CTL_ERL_ARGS=-mnesia dir x"},
	} {
		err := RefuseMoved(strings.Fields(c.args), strings.Split(c.env, ";"))
		if (err != nil) != (c.say != nil) {
			t.Errorf("%s %s: %v", c.args, c.env, err)
		}
		for _, words := range c.say {
			if err != nil && !strings.Contains(err.Error(), words) {
				t.Errorf("%s %s: %v; want %q", c.args, c.env, err, words)
			}
		}
	}
}
