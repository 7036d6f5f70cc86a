package consul

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"rmq-entrypoint/peers"
)

// Whoever answers as Consul, which over plain HTTP may be anybody on the way, gets no more of
// this process's memory and of its log than this.
const (
	mostAnswer = 16 << 20 // of an answer; a catalog of 10,000 entries has 10 MB
	mostError  = 1 << 10  // of what an error says
)

// bounded ends what reads an answer that is too long, and makes an error's words fit to be
// printed.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if at, asked := r.Context().Value(dated{}).(*time.Time); asked {
		*at, _ = http.ParseTime(answer.Header.Get("Date")) // not said: zero
	}
	what := r.Method + " " + r.URL.Path
	switch {
	case answer.StatusCode >= 400 && answer.StatusCode != http.StatusConflict: // that one is a transaction's answer
		said, err := io.ReadAll(io.LimitReader(answer.Body, mostError))
		answer.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("read Consul's answer to %s: %w", what, err)
		}
		answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader([]byte(peers.Plain(string(said))))), -1
	default:
		answer.Body = &atMost{answer.Body, mostAnswer, what}
	}
	return answer, nil
}

type dated struct{}

// Dated has what is asked with the context note when it was answered, by Consul's clock: that goes on
// while this machine sleeps, or is stopped as a whole.
func Dated(ctx context.Context, at *time.Time) context.Context {
	return context.WithValue(ctx, dated{}, at)
}

// atMost is a body of which no more than left bytes are read.
type atMost struct {
	io.ReadCloser
	left int64
	what string
}

func (a *atMost) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p[:min(int64(len(p)), a.left+1)])
	if a.left -= int64(n); a.left < 0 {
		return 0, fmt.Errorf("the answer of Consul to %s has over %d MiB, %w: look at what answers there, and at what is registered", a.what, mostAnswer>>20, peers.ErrTooLong)
	}
	return n, err
}

// Stays lets a client of Consul's be sent on by the one that it asked to that one alone: Consul does
// so for a path with two slashes in a row. Anywhere else the token would go along.
func Stays(to *http.Request, via []*http.Request) error {
	asked := via[0]
	switch {
	case to.URL.Scheme != asked.URL.Scheme || to.URL.Host != asked.URL.Host:
		return fmt.Errorf("what answers there sends on to %.100q, as no Consul does, and the token goes nowhere else: name the address that answers itself (--consul, CONSUL_HTTP_ADDR)", to.URL.Scheme+"://"+to.URL.Host)
	case to.Method != asked.Method || len(via) > 3:
		return fmt.Errorf("what answers there sends on %d times, at last by %s, as no Consul does: look at what listens at this address (--consul, CONSUL_HTTP_ADDR)", len(via), to.Method)
	}
	return nil
}
