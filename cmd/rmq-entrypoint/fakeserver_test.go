package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// playServer is rabbitmq-server: it notes its PID, arguments and environment,
// and takes orders on a socket:
//
//	notify TEXT   says TEXT on NOTIFY_SOCKET
//	amqp up       answers AMQP as a healthy node
//	amqp down     hangs up and refuses
//	amqp shut     takes connections and closes them without a word
//	amqp 320      closes its connections as a node that stops
//	exit          ends without a word
//
// On SIGUSR1 it does as RabbitMQ at stop_app, on SIGUSR2 as at start_app; on SIGTERM
// it says what RabbitMQ says at its end, and ends.
func playServer() int {
	dir := os.Getenv("RMQ_TEST_DIR")
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "test server:", err)
		return 1
	}
	_ = os.Remove(filepath.Join(dir, "orders"))
	orders, err := net.Listen("unix", filepath.Join(dir, "orders"))
	if err != nil {
		return fail(err)
	}
	u, err := url.Parse(os.Getenv("RMQ_TEST_AMQP"))
	if err != nil {
		return fail(err)
	}
	broker := &amqpStub{addr: u.Host}
	end := make(chan int, 1)
	go func() {
		for {
			conn, err := orders.Accept()
			if err != nil {
				end <- fail(err)
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			order, answer := strings.TrimSpace(line), "done"
			if err := obey(broker, order); err != nil {
				answer = err.Error()
			}
			_, _ = io.WriteString(conn, answer)
			_ = conn.Close()
			if order == "exit" {
				end <- 3
			}
		}
	}()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for sig := range stop {
			if sig == syscall.SIGUSR2 {
				_ = broker.up()
				_ = notify("READY=1")
				continue
			}
			_ = notify("STOPPING=1")
			broker.down(nil)
		}
	}()

	b, err := json.Marshal(started{os.Getpid(), os.Args, os.Environ()})
	if err != nil {
		return fail(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Append(nil, os.Getpid()), 0o644); err != nil {
		return fail(err)
	}
	file := filepath.Join(dir, "started")
	if err := os.WriteFile(file+".part", b, 0o644); err != nil {
		return fail(err)
	}
	if err := os.Rename(file+".part", file); err != nil {
		return fail(err)
	}
	select {
	case code := <-end:
		return code
	case <-term:
		_ = notify("STATUS=Standing by")
		_ = notify("STOPPING=1")
		return 0
	}
}

func obey(broker *amqpStub, order string) error {
	what, arg, _ := strings.Cut(order, " ")
	switch order {
	case "amqp up":
		return broker.up()
	case "amqp shut":
		broker.shut = true
		return broker.up()
	case "amqp down":
		broker.down(nil)
		return nil
	case "amqp 320":
		broker.down(amqpClose(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"))
		return nil
	case "exit":
		return nil
	}
	if what == "notify" {
		return notify(arg)
	}
	return fmt.Errorf("no such order: %q", order)
}

func notify(text string) error {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, text)
	return err
}

// order1 gives the server at socket one order and returns its answer.
func order1(socket, order string) (string, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintln(conn, order); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}

// An amqpStub speaks as much AMQP 0-9-1 as the health check needs. How a real
// node answers is the subject of healthcheck's own tests.
type amqpStub struct {
	addr string
	shut bool // nobody gets in; set before up

	mu    sync.Mutex
	ln    net.Listener
	conns []net.Conn
}

func (s *amqpStub) up() error {
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.ln = ln
	s.mu.Unlock()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if s.shut {
				_ = conn.Close()
				continue
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			go answerAMQP(conn)
		}
	}()
	return nil
}

// down stops listening and hangs up, after a last word if there is one.
func (s *amqpStub) down(word []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln != nil {
		_ = s.ln.Close()
	}
	for _, c := range s.conns {
		if len(word) > 0 {
			_, _ = c.Write(word)
		}
		_ = c.Close()
	}
	s.ln, s.conns = nil, nil
}

// amqpAnswers are a healthy node's, by class and method.
var amqpAnswers = map[[2]uint16][]byte{
	{10, 11}: amqpMethod(10, 30, "\x07\xff\x00\x02\x00\x00\x00\x00"), // StartOk: Tune without heartbeats
	{10, 40}: amqpMethod(10, 41, "\x00"),                             // Open: OpenOk
	{10, 50}: amqpMethod(10, 51, ""),                                 // Close: CloseOk
	{20, 10}: amqpMethod(20, 11, "\x00\x00\x00\x00"),                 // channel Open
	{20, 40}: amqpMethod(20, 41, ""),                                 // channel Close
	{90, 10}: amqpMethod(90, 11, ""),                                 // tx Select
	{90, 30}: amqpMethod(90, 31, ""),                                 // tx Rollback
}

func answerAMQP(conn net.Conn) {
	r := bufio.NewReader(conn)
	if _, err := io.ReadFull(r, make([]byte, 8)); err != nil { // "AMQP" and the version
		return
	}
	_, _ = conn.Write(amqpMethod(10, 10, "\x00\x09\x00\x00\x00\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US"))
	for {
		head := make([]byte, 7)
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		if head[0] != 1 { // content or a heartbeat
			continue
		}
		if body[1] == 10 && body[3] == 11 { // StartOk, with the login
			_ = os.WriteFile(filepath.Join(os.Getenv("RMQ_TEST_DIR"), "login"), body, 0o644)
		}
		if a := amqpAnswers[[2]uint16{binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])}]; a != nil {
			a = append([]byte{a[0], head[1], head[2]}, a[3:]...) // on the channel that asked
			_, _ = conn.Write(a)
		}
	}
}

func amqpMethod(class, id uint16, args string) []byte {
	b := []byte{1, 0, 0}
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(args)))
	b = binary.BigEndian.AppendUint16(b, class)
	b = binary.BigEndian.AppendUint16(b, id)
	return append(append(b, args...), 0xCE)
}

func amqpClose(code uint16, text string) []byte {
	return amqpMethod(10, 50, string(binary.BigEndian.AppendUint16(nil, code))+string([]byte{byte(len(text))})+text+"\x00\x00\x00\x00")
}
