package companion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"rmq-entrypoint/internal/config"
)

// The port of /ready is open to whoever reaches it, and asks nobody for a password. So what it
// takes is bounded: a connection has one question and little time, and there are few at a time.
const (
	mostConnections = 64              // at a time: balancers and probes have a handful
	askWithin       = 5 * time.Second // a question is there, body and all; as long for its answer
	mostHeader      = 8 << 10         // bytes
	tellEvery       = time.Minute     // the log hears of what was no question once in that time
)

// open answers at the port of /ready, at the socket of this program's own commands, and at the
// address for operators where there is one, until what it returns is closed.
func open(cfg config.Config, answers Answers, log *slog.Logger) (io.Closer, error) {
	l, err := net.Listen("tcp", cfg.HTTP)
	if err != nil {
		return nil, fmt.Errorf("--http (RMQ_HTTP): %w", err)
	}
	port := serve(l, answers.Ready, "the port of /ready", log)
	if l, err = listenOwn(cfg.StatusSocket()); err != nil {
		return nil, errors.Join(err, port.Close())
	}
	opened := closers{port, serve(l, answers.Own, "the socket of /status", log)}
	if cfg.Admin == "" || cfg.Admin == "off" {
		return opened, nil
	}
	if l, err = net.Listen("tcp", cfg.Admin); err != nil { // a page is no reason for a node not to serve
		log.Warn("there is no page for operators (--admin, RMQ_ADMIN): it needs another address, or off", "err", err)
		return opened, nil
	}
	return append(opened, serve(l, answers.Admin, "the address for operators", log)), nil
}

type closers []io.Closer

func (all closers) Close() (err error) {
	for _, c := range all {
		err = errors.Join(err, c.Close())
	}
	return err
}

// listenOwn listens at a socket that no other user but root reaches, from its first moment on. One
// that was left there is replaced: who holds the companion's lock is alone.
func listenOwn(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make way for the companion's socket: %w", err)
	}
	ours := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		ctl := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }) // bind makes the file with it
		return errors.Join(ctl, err)
	}}
	l, err := ours.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for this program's own commands: %w", err)
	}
	return l, nil
}

// serve answers questions at l until it is closed.
func serve(l net.Listener, h http.Handler, place string, log *slog.Logger) io.Closer {
	d := &door{Listener: l, place: place, log: log, shut: make(chan struct{})}
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: askWithin, ReadTimeout: askWithin, WriteTimeout: askWithin, IdleTimeout: askWithin, MaxHeaderBytes: mostHeader,
		ErrorLog:    stdlog.New(io.Discard, "", 0), // a line for each: the door tells once a minute
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, guestKey{}, c) },
	}
	s.SetKeepAlivesEnabled(false)
	go func() { _ = s.Serve(d) }()
	return closers{d, s} // the server does not know of its door before its goroutine runs
}

// A door lets in as many as there is room for. Who comes when it is full takes the place of
// the oldest connection of the address that holds the most: so one stranger keeps out nobody
// but itself.
type door struct {
	net.Listener
	place string // for people
	log   *slog.Logger
	shut  chan struct{}
	once  sync.Once

	mu      sync.Mutex
	guests  []*guest // the oldest first
	told    time.Time
	untold  int   // connections without a question that the log has not heard of
	last    []any // of them, as the log gets to see it
	telling bool  // once it is time, and as long as somebody reads the log
}

// Accept returns the next connection. No error but that of its own end ends it: running out of
// descriptors or of memory passes.
func (d *door) Accept() (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		conn, err := d.Listener.Accept()
		if err == nil {
			return d.admit(conn), nil
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		select {
		case <-d.shut:
		case <-time.After(wait):
		}
	}
}

func (d *door) Close() error {
	var err error
	d.once.Do(func() { close(d.shut); err = d.Listener.Close() })
	return err
}

func (d *door) admit(conn net.Conn) net.Conn {
	g := &guest{Conn: conn, door: d, from: origin(conn.RemoteAddr()), came: time.Now()}
	d.mu.Lock()
	var leaves *guest
	if len(d.guests) >= mostConnections {
		leaves = crowd(d.guests)
	}
	d.guests = append(d.guests, g)
	d.mu.Unlock()
	if leaves != nil {
		leaves.note(func() { leaves.pushed = true })
		_ = leaves.Close()
	}
	return g
}

// crowd returns the oldest of those who come from where the most come from.
func crowd(guests []*guest) *guest {
	from, most := map[netip.Prefix]int{}, guests[0]
	for _, g := range guests {
		from[g.from]++
	}
	for _, g := range guests {
		if from[g.from] > from[most.from] {
			most = g
		}
	}
	return most
}

// origin is who an address belongs to: a host has all addresses of an IPv6 network.
func origin(addr net.Addr) netip.Prefix {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := at.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

// left notes that a guest is gone, and tells the log of one that asked nothing that is answered
// here. Those that only look whether somebody listens are no strangers.
func (d *door) left(g *guest) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guests = slices.DeleteFunc(d.guests, func(other *guest) bool { return other == g })
	g.mu.Lock()
	said, asked, stays := bytes.Clone(g.said), g.asked, g.pushed || now.Sub(g.came) >= askWithin
	g.mu.Unlock()
	if asked || len(said) == 0 && !stays {
		return
	}
	sent := "nothing"
	if len(said) > 0 {
		sent = fmt.Sprintf("%q", said)
	}
	d.last = []any{"from", g.RemoteAddr().String(), "sent", sent, "held", now.Sub(g.came).Round(time.Millisecond).String()}
	d.untold++
	d.tellLater()
}

// tellLater has the log hear of those that it has not heard of, in a goroutine: nobody waits for
// who reads it.
func (d *door) tellLater() {
	if !d.telling && d.untold > 0 {
		d.telling = true
		time.AfterFunc(max(0, tellEvery-time.Since(d.told)), d.tell)
	}
}

func (d *door) tell() {
	d.mu.Lock()
	line := append(d.last, "such_connections", d.untold)
	d.told, d.untold = time.Now(), 0
	d.mu.Unlock()
	d.log.Warn("a connection to "+d.place+" asked nothing that is answered there", line...)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.telling = false
	d.tellLater()
}

// mostSaid is how much of what a guest sent first the log gets to see.
const mostSaid = 40

// A guest is one connection.
type guest struct {
	net.Conn
	door *door
	from netip.Prefix
	came time.Time
	gone sync.Once

	mu     sync.Mutex
	said   []byte // first
	asked  bool   // something that is answered
	pushed bool   // out, for another one
}

type guestKey struct{}

// asks notes that the connection of a request asks for what is answered here.
func asks(r *http.Request) {
	if g, ok := r.Context().Value(guestKey{}).(*guest); ok {
		g.note(func() { g.asked = true })
	}
}

func (g *guest) note(what func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	what()
}

func (g *guest) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.note(func() { g.said = append(g.said, p[:min(n, mostSaid-len(g.said))]...) })
	return n, err
}

func (g *guest) Close() error {
	err := g.Conn.Close()
	g.gone.Do(func() { g.door.left(g) })
	return err
}
