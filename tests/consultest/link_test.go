package consultest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestLinkModes(t *testing.T) {
	var served atomic.Int32
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		_, _ = io.WriteString(w, "hello")
	}))
	t.Cleanup(web.Close)
	link := Proxy(t, web.Listener.Addr().String())
	client := &http.Client{Transport: &http.Transport{}}
	get := func(within time.Duration) string {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		r, _ := http.NewRequestWithContext(ctx, "GET", "http://"+link.Addr+"/a", nil)
		resp, err := client.Do(r)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(resp.Status[:3] + " " + string(body))
	}
	expect := func(within time.Duration, want string) {
		t.Helper()
		if got := get(within); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}

	expect(5*time.Second, "200 hello")
	link.Blackhole()
	expect(200*time.Millisecond, "deadline exceeded")
	link.Refuse()
	expect(5*time.Second, "refused")
	link.Delay(100 * time.Millisecond)
	start := time.Now()
	expect(5*time.Second, "200 hello")
	if took := time.Since(start); took < 100*time.Millisecond {
		t.Errorf("delayed by 100ms, answered after %s", took)
	}
	link.Pass()
	r := link.Answer(1, 500, "no leader", Request("GET", "/a"))
	expect(5*time.Second, "500 no leader")
	<-r.Done()
	expect(5*time.Second, "200 hello")
	before := served.Load()
	client.CloseIdleConnections() // on a connection used before, net/http would ask again by itself
	r = link.LoseAnswer(1, Request("GET", "/a"))
	expect(5*time.Second, "EOF")
	<-r.Done()
	if got := served.Load() - before; got != 1 {
		t.Errorf("the target served %d requests, want the one whose answer was lost", got)
	}
	if got := link.Count(Request("GET", "/a")); got != 5 {
		t.Errorf("counted %d requests, want 5", got)
	}
}

func TestLinkCarriesAnyProtocol(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	link := Proxy(t, echo.Addr().String())
	c, err := net.Dial("tcp", link.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ping := func() error {
		if _, err := c.Write([]byte("AMQP\x00")); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err := io.ReadFull(c, make([]byte, 5))
		return err
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	link.Refuse()
	if ping() == nil {
		t.Error("an open connection survived Refuse")
	}
}
