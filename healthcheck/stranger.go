package healthcheck

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// dialOwn connects, and gives the connection up where it leads to a port of this host at which
// neither this process's user listens nor root. RabbitMQ closes ports without a word, as for
// `rabbitmqctl suspend_listeners`, and who listens there then may be anybody: no login is for them.
func dialOwn(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err == nil && own(net.IP(at.Addr().AsSlice())) {
		err = ownListener(at, "/proc/net")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// ownListener returns an error where another user listens at that address of this host, by the
// tables of sockets in dir; on the loopback also where nobody does any more. A host that has no such
// tables tells nothing, and that is no error.
func ownListener(at netip.AddrPort, dir string) error {
	at = netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
	known, best, uid := false, 0, ""
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(dir + "/" + table)
		if err != nil {
			continue
		}
		known = true
		rows := bufio.NewScanner(f)
		rows.Scan() // the head
		for rows.Scan() {
			// sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid …
			row := strings.Fields(rows.Text())
			if len(row) < 8 || row[3] != "0A" { // those that listen come first
				break
			}
			if local, err := socketAddr(row[1]); err == nil && takes(local, at) > best {
				best, uid = takes(local, at), row[7]
			}
		}
		f.Close()
	}
	switch id, err := strconv.Atoi(uid); {
	case best == 0 && known && at.Addr().IsLoopback():
		return fmt.Errorf("who listened there is gone: it is told nothing")
	case best > 0 && (err != nil || id != os.Geteuid() && id != 0):
		return fmt.Errorf("the user with id %s listens there, and not RabbitMQ's, %d: it is told nothing", uid, os.Geteuid())
	}
	return nil
}

// takes ranks who may get a connection to at: the kernel gives it to the socket at that very address,
// or at all of its family, or at all of IPv6, where that takes IPv4, too. 0: to none of these. Two
// users cannot listen where both would do.
func takes(local, at netip.AddrPort) int {
	switch {
	case local.Port() != at.Port():
		return 0
	case local.Addr() == at.Addr():
		return 3
	case !local.Addr().IsUnspecified():
		return 0
	case local.Addr().Is4() == at.Addr().Is4():
		return 2
	case local.Addr().Is6():
		return 1
	}
	return 0
}

// socketAddr is an address as the kernel prints one: words of 32 bits in the order of this machine.
func socketAddr(s string) (at netip.AddrPort, err error) {
	addr, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	if err != nil || len(b)%4 != 0 {
		return at, fmt.Errorf("address %q: %w", s, err)
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, _ := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), err
}
