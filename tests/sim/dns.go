package sim

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// Dial connects to Consul's DNS port.
func (p *Process) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if !p.await(ctx, "DNS") {
		return nil, errors.New("the process is dead")
	}
	w := p.Box.Node.w
	w.mu.Lock()
	cut := p.Box.Node.cut.After(time.Now()) || w.consul.away.After(time.Now())
	stale := w.drawLocked(p.Name(), "stale") * 2
	if w.drawLocked(p.Name(), "very stale") < 0.1 {
		stale *= 30
	}
	hosts := w.consul.asOf(time.Now().Add(-time.Duration(stale * 1e9)))
	w.mu.Unlock()
	if cut {
		return nil, errors.New("connection refused")
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		conn := &dns.Conn{Conn: far}
		q, err := conn.ReadMsg()
		if err != nil {
			return
		}
		a := new(dns.Msg).SetReply(q)
		for _, s := range hosts {
			host := s.ID + ".addr.dc1.consul."
			a.Answer = append(a.Answer, &dns.SRV{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeSRV, Class: dns.ClassINET}, Priority: 1, Weight: 1, Port: uint16(s.Port), Target: host})
			a.Extra = append(a.Extra, &dns.A{Hdr: dns.RR_Header{Name: host, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(s.Address)})
		}
		if len(hosts) == 0 {
			a.Rcode = dns.RcodeNameError
		}
		_ = conn.WriteMsg(a)
	}()
	return near, nil
}

func (c *consul) asOf(t time.Time) []*service {
	if c.lies.After(time.Now()) {
		return nil
	}
	i := slices.IndexFunc(c.history, func(a answers) bool { return a.at.After(t) })
	switch {
	case i == 0 || len(c.history) == 0:
		return nil
	case i < 0:
		i = len(c.history)
	}
	return c.history[i-1].hosts
}
