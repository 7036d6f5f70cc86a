package config

import (
	"fmt"
	"strconv"
)

// judgeTLS refuses what Consul's own client cannot read, with which it does the opposite of what
// was meant: CONSUL_HTTP_SSL=yes stays plain HTTP, and CONSUL_HTTP_SSL_VERIFY=yes takes whoever
// answers for Consul.
func judgeTLS(getenv func(string) string) error {
	for _, name := range []string{"CONSUL_HTTP_SSL", "CONSUL_HTTP_SSL_VERIFY"} {
		text := getenv(name)
		if _, err := strconv.ParseBool(text); text != "" && err != nil {
			return fmt.Errorf("%s=%q: Consul's client takes this for false: give it true or false", name, text)
		}
	}
	return nil
}
