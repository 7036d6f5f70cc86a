package healthcheck

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// listenAs listens as that user.
func listenAs(t *testing.T, uid uintptr, network, addr string) net.Listener {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, uid, 0, 0)
	defer func() { _, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(os.Geteuid()), 0, 0) }()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// Another user who took a port that RabbitMQ closed gets no word, by AMQP or HTTP.
func TestStrangers(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can listen as another user")
	}
	for _, at := range []struct{ network, addr, host string }{
		{"tcp", "127.0.0.1:0", "127.0.0.1"}, {"tcp4", "0.0.0.0:0", "127.0.0.1"}, {"tcp", "[::]:0", "127.0.0.1"}, {"tcp", "[::]:0", "[::1]"},
	} {
		t.Run(at.network+" "+at.addr+" by "+at.host, func(t *testing.T) {
			t.Parallel()
			l := listenAs(t, 4711, at.network, at.addr)
			heard := make(chan string, 8)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
					b := make([]byte, 1000)
					n, _ := conn.Read(b)
					conn.Close()
					heard <- string(b[:n])
				}
			}()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			c, err := New(Options{URLs: []string{"amqp://alice:wonder@" + at.host + ":" + port}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if r := c.Check(t.Context()); r.State != Critical || !strings.Contains(r.Reason, "the user with id 4711 listens there") {
				t.Errorf("%s: %s", r.State, r.Reason)
			}
			if _, err := Nodes(t.Context(), "http://"+at.host+":"+port, "alice", "wonder"); err == nil || !strings.Contains(err.Error(), "the user with id 4711 listens there") {
				t.Errorf("management: %v", err)
			}
			for range 2 {
				if said := <-heard; said != "" {
					t.Errorf("it hears %q", said)
				}
			}
		})
	}
	t.Run("one's own is asked", func(t *testing.T) {
		t.Parallel()
		for _, uid := range []uintptr{uintptr(os.Geteuid()), 0} {
			l := listenAs(t, uid, "tcp", "127.0.0.1:0")
			got := make(chan bool, 1)
			go func() {
				_ = http.Serve(l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, password, _ := r.BasicAuth()
					got <- password == "wonder"
				}))
			}()
			_, _ = Nodes(t.Context(), "http://"+l.Addr().String(), "alice", "wonder")
			if !<-got {
				t.Error("it got no password")
			}
		}
	})
}

// The rows of the kernel's tables, with another user's in it.
func TestOwnListener(t *testing.T) {
	t.Parallel()
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	row := func(local, state, uid string) string {
		return "   0: " + local + " 00000000:0000 " + state + " 00000000:00000000 00:00000000 00000000  " + uid + "        0 1\n"
	}
	const (
		any4, local4, other4 = "00000000:1628", "0100007F:1628", "0100000A:1628" // 10.0.0.1
		any6                 = "00000000000000000000000000000000:1628"
		local6               = "00000000000000000000000001000000:1628"
	)
	me := "0"
	for name, c := range map[string]struct {
		tcp, tcp6, at, says string
	}{
		"ours":                          {head + row(local4, "0A", me), head, "127.0.0.1:5672", ""},
		"another's":                     {head + row(local4, "0A", "1001"), head, "127.0.0.1:5672", "1001"},
		"another's, on all":             {head + row(any4, "0A", "1001"), head, "127.0.0.1:5672", "1001"},
		"another's, on all of IPv6":     {head, head + row(any6, "0A", "1001"), "127.0.0.1:5672", "1001"},
		"another's by IPv6":             {head, head + row(local6, "0A", "1001"), "[::1]:5672", "1001"},
		"another's beside ours on all":  {head + row(local4, "0A", "1001"), head + row(any6, "0A", me), "127.0.0.1:5672", "1001"},
		"ours, another's on all":        {head + row(local4, "0A", me), head + row(any6, "0A", "1001"), "127.0.0.1:5672", ""},
		"ours on all, another's on v6":  {head + row(any4, "0A", me), head + row(any6, "0A", "1001"), "127.0.0.1:5672", ""},
		"ours on v6, another's on v4":   {head + row(any4, "0A", "1001"), head + row(local6, "0A", me), "[::1]:5672", ""},
		"another's on v4 is not v6":     {head + row(any4, "0A", "1001"), head, "[::1]:5672", "gone"},
		"another's, at another port":    {head + row("0100007F:1629", "0A", "1001") + row(local4, "0A", me), head, "127.0.0.1:5672", ""},
		"another's, at another one":     {head + row(other4, "0A", "1001") + row(local4, "0A", me), head, "127.0.0.1:5672", ""},
		"mapped":                        {head + row(local4, "0A", "1001"), head, "[::ffff:127.0.0.1]:5672", "1001"},
		"a connection is no listener":   {head + row(local4, "01", "1001"), head, "127.0.0.1:5672", "gone"},
		"nobody":                        {head, head, "127.0.0.1:5672", "gone"},
		"nobody, not on the loopback":   {head, head, "10.0.0.1:5672", ""},
		"a number that is none":         {head + row(local4, "0A", "x"), head, "127.0.0.1:5672", "id x"},
		"what the kernel never printed": {head + "x\n", head + row("zz:1", "0A", "1001") + row(local6, "0A", me), "[::1]:5672", ""},
		"no tables":                     {"", "", "127.0.0.1:5672", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for table, rows := range map[string]string{"tcp": c.tcp, "tcp6": c.tcp6} {
				if rows != "" {
					if err := os.WriteFile(filepath.Join(dir, table), []byte(rows), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			err := ownListener(netip.MustParseAddrPort(c.at), dir)
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}
