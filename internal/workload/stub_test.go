package workload

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// A stub speaks just enough AMQP to fail on cue, for faults that a real server
// does not have on demand. How RabbitMQ behaves is for clients_rabbitmq_test.go.
type stub struct {
	addr string
	hook func(*stubConn, stubCall) bool // sees every call first; true: it dealt with it

	mu       sync.Mutex
	links    int
	declared int
	bodies   []string
	acks     []uint64
}

// A stubCall is a method, with the content that followed it.
type stubCall struct {
	class, id    uint16
	args         []byte
	header, body []byte
}

func (c stubCall) is(class, id uint16) bool { return c.class == class && c.id == id }

// consumer is the tag, a short string, that a basic.consume names.
func (c stubCall) consumer() string {
	name := c.args[3+c.args[2]:] // behind the ticket and the queue
	return string(name[:1+name[0]])
}

// A stubConn is the stub's end of one connection.
type stubConn struct {
	*stub
	net.Conn
	number    int    // from 1
	published uint64 // messages on it
}

// serveStub starts a stub that confirms every message, and ends with the test.
func serveStub(t *testing.T, hook func(*stubConn, stubCall) bool) *stub {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	expect.Must(t, err)
	s := &stub{addr: l.Addr().String(), hook: hook}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.links++
			c := &stubConn{stub: s, Conn: conn, number: s.links}
			s.mu.Unlock()
			serving.Go(c.serve)
		}
	})
	return s
}

// saw returns what arrived: connections, queues declared, message bodies, and
// acknowledged delivery tags.
func (s *stub) saw() (links, declared int, bodies []string, acks []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links, s.declared, slices.Clone(s.bodies), slices.Clone(s.acks)
}

func (c *stubConn) serve() {
	defer c.Close()
	r := bufio.NewReader(c)
	if _, err := io.ReadFull(r, make([]byte, 8)); err != nil {
		return
	}
	c.method(0, 10, 10, "\x00\x09"+long("")+long("PLAIN")+long("en_US"))
	var call stubCall
	var missing uint64 // of the body
	for {
		kind, payload, err := frame(r)
		if err != nil {
			return
		}
		switch kind {
		case 1:
			call = stubCall{class: binary.BigEndian.Uint16(payload), id: binary.BigEndian.Uint16(payload[2:]), args: payload[4:]}
			if call.is(60, 40) {
				continue // its content follows
			}
		case 2:
			call.header, missing = payload, binary.BigEndian.Uint64(payload[4:])
		case 3:
			call.body = append(call.body, payload...)
			missing -= uint64(len(payload))
		default:
			continue
		}
		if missing == 0 && !c.hear(call) {
			return
		}
	}
}

func frame(r io.Reader) (kind byte, payload []byte, err error) {
	head := make([]byte, 7)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
	_, err = io.ReadFull(r, b)
	return head[0], b[:len(b)-1], err
}

// hear answers a call as a healthy server does, unless the hook does otherwise.
func (c *stubConn) hear(call stubCall) bool {
	c.mu.Lock()
	switch {
	case call.is(50, 10):
		c.declared++
	case call.is(60, 40):
		c.published++
		c.bodies = append(c.bodies, string(call.body))
	case call.is(60, 80):
		c.acks = append(c.acks, binary.BigEndian.Uint64(call.args))
	}
	c.mu.Unlock()
	if c.hook != nil && c.hook(c, call) {
		return true
	}
	switch {
	case call.is(10, 11):
		c.method(0, 10, 30, "\x07\xff\x00\x02\x00\x00\x00\x3c")
	case call.is(10, 40):
		c.method(0, 10, 41, short(""))
	case call.is(10, 50):
		c.method(0, 10, 51, "")
		return false
	case call.is(20, 10):
		c.method(1, 20, 11, long(""))
	case call.is(20, 40):
		c.method(1, 20, 41, "")
	case call.is(50, 10):
		c.method(1, 50, 11, short("my-queue")+"\x00\x00\x00\x00\x00\x00\x00\x00")
	case call.is(60, 10):
		c.method(1, 60, 11, "")
	case call.is(60, 20):
		c.method(1, 60, 21, call.consumer())
	case call.is(60, 40):
		c.confirm(80, c.published)
	case call.is(85, 10):
		c.method(1, 85, 11, "")
	}
	return true
}

func (c *stubConn) frame(kind byte, channel uint16, payload string) {
	b := binary.BigEndian.AppendUint16([]byte{kind}, channel)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	_, _ = c.Write(append(append(b, payload...), 0xCE))
}

func (c *stubConn) method(channel, class, id uint16, args string) {
	c.frame(1, channel, string(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, class), id))+args)
}

// confirm sends basic.ack (80) or basic.nack (120) for a message.
func (c *stubConn) confirm(id uint16, tag uint64) {
	c.method(1, 60, id, string(binary.BigEndian.AppendUint64(nil, tag))+"\x00")
}

// content sends a message's header and body.
func (c *stubConn) content(header, body string) {
	c.frame(2, 1, header)
	c.frame(3, 1, body)
}

// giveBack says that no queue took the message.
func (c *stubConn) giveBack(call stubCall) {
	c.method(1, 60, 50, "\x01\x38"+short("NO_ROUTE")+short("")+short("my-queue"))
	c.content(string(call.header), string(call.body))
}

// deliver sends a message to the consumer whose basic.consume this is.
func (c *stubConn) deliver(consume stubCall, tag uint64, id, body string) {
	c.method(1, 60, 60, consume.consumer()+string(binary.BigEndian.AppendUint64(nil, tag))+"\x00"+short("")+short("my-queue"))
	c.content("\x00\x3c\x00\x00"+string(binary.BigEndian.AppendUint64(nil, uint64(len(body))))+"\x00\x80"+short(id), body)
}

// refuse sends connection.close, or channel.close on channel 1.
func (c *stubConn) refuse(channel, code uint16, text string) {
	class, id := uint16(10), uint16(50)
	if channel != 0 {
		class, id = 20, 40
	}
	c.method(channel, class, id, string(binary.BigEndian.AppendUint16(nil, code))+short(text)+"\x00\x00\x00\x00")
}

func short(s string) string { return string([]byte{byte(len(s))}) + s }

func long(s string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) + s }
