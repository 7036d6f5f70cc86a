package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Settings that are addresses. Whoever gives a whole URL for one may have put a secret into it: no
// error, and nothing that is kept, repeats more of it than a scheme, a host and a port.

// addresses are the settings that a URL could be given for, though none takes more than an address.
var addresses = []string{"consul", "dns-server", "advertise", "http", "admin"}

// plainly is an address as errors repeat it: with a scheme perhaps, or a subnet's length, and with
// nothing else in which a secret could be.
var plainly = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*://)?[][A-Za-z0-9_.: -]*(%[A-Za-z0-9]+)?\]?(:[A-Za-z0-9]*)?(/[0-9]{0,3})?(:[0-9]*)?$`)

// encoded is a character as URLs have it that are not to be taken for what it is.
var encoded = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// shown is an address before the words that say what is wrong with it, "" where it may hold a secret.
func shown(address string) string {
	if !plainly.MatchString(address) || encoded.MatchString(address) {
		return ""
	}
	return strconv.Quote(address) + " "
}

// holdsUser reports whether comma-separated addresses may hold a user, or a password, which may
// have a comma in it. An encoded @ is none of a zone's, as in [fe80::1%40].
func holdsUser(addresses string) bool {
	return anyOf(addresses, func(a string) bool {
		return strings.Contains(a, "@") || strings.Contains(a, "%40") && !strings.Contains(a, "[")
	})
}

// holdsMore reports whether comma-separated addresses may hold a query or a fragment, as it is or
// encoded.
func holdsMore(addresses string) bool {
	return anyOf(addresses, func(a string) bool {
		upper := strings.ToUpper(a)
		return strings.ContainsAny(a, "?#") || strings.Contains(upper, "%3F") || strings.Contains(upper, "%23")
	})
}

// anyOf reports whether one of comma-separated addresses is so. A socket's path may have anything in it.
func anyOf(addresses string, so func(address string) bool) bool {
	for a := range strings.SplitSeq(addresses, ",") {
		if so(a) && !strings.HasPrefix(strings.Trim(a, ` "`), "unix:///") {
			return true
		}
	}
	return false
}

// consulAddress judges where a Consul agent is, and completes it with the port that Consul
// listens on. Its errors repeat no secret.
func consulAddress(a string) (string, error) {
	if a == "" {
		return "", errors.New("empty address; give host:port, comma-separated")
	}
	wrong := func(is, why string) error {
		if is != "" {
			return fmt.Errorf("%sis %s", is, why)
		}
		return fmt.Errorf("%s, and not repeated here, for it may hold a secret", why)
	}
	const want = "not [http[s]://]host:port, without a path, or unix:///path"
	socket, local := strings.CutPrefix(a, "unix://")
	if local && filepath.IsAbs(socket) {
		return a, nil
	}
	scheme, rest, ok := strings.Cut(a, "://")
	if !ok {
		scheme, rest = "http", a
	}
	u, err := url.Parse(scheme + "://" + rest)
	switch {
	case err != nil && strings.Count(rest, ":") > 1 && !strings.Contains(rest, "["): // user:password:port
		return "", wrong("", want)
	case local:
		return "", wrong(shown(a), "not unix:///path")
	case err != nil, u.Hostname() == "", scheme != "http" && scheme != "https", u.Path != "" && u.Path != "/", u.RawQuery+u.Fragment != "":
		return "", wrong(shown(a), want)
	}
	host := u.Host
	if u.Port() == "" && scheme == "http" { // behind https there often is something else, on 443
		host = net.JoinHostPort(u.Hostname(), "8500")
	} else if err := validPort(cmp.Or(u.Port(), "443")); err != nil {
		return "", wrong(shown(a), err.Error())
	}
	if ok {
		host = scheme + "://" + host
	}
	return host, nil
}

func hostPort(a string) error {
	host, port, err := net.SplitHostPort(a)
	switch {
	case err == nil && (strings.Contains(host, "/") || strings.Contains(strings.ToUpper(host), "%2F")):
		return errors.New("there is a path in it")
	case err == nil:
		return validPort(port)
	}
	if wrong := new(net.AddrError); errors.As(err, &wrong) { // which repeats the address as it is
		return errors.New(wrong.Err)
	}
	return err
}

func validPort(p string) error {
	if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
		return errors.New("not a port from 1 to 65535")
	}
	return nil
}

// AgentHost is the host of an agent's address, "" for a socket, whose agent is on this host.
func AgentHost(address string) string {
	if strings.HasPrefix(address, "unix://") {
		return ""
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil { // settings were judged; whatever this is, it has no route
		return address
	}
	return u.Hostname()
}
