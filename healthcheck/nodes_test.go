package healthcheck

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestNodes(t *testing.T) {
	noLeaks(t)
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			if user != "alice" || password != secret || r.URL.Path != "/mq/api/nodes" || !strings.Contains(r.URL.RawQuery, "partitions") {
				t.Errorf("asked %s as %q", r.URL, user)
			}
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		want    []Node // nil: unknown
	}{
		"healthy": {answer(200, `[{"name":"rabbit@a","running":true,"partitions":[],"mem_alarm":false,"disk_free_alarm":false}]`),
			[]Node{{Name: "rabbit@a", Running: true, Known: true, Partitions: []string{}}}},
		"partition and alarms": {answer(200, `[{"name":"rabbit@a","running":true,"partitions":["rabbit@b"],"mem_alarm":true,"disk_free_alarm":true},{"name":"rabbit@b","running":false}]`),
			[]Node{{Name: "rabbit@a", Running: true, Known: true, Partitions: []string{"rabbit@b"}}, {Name: "rabbit@b"}}},
		"no statistics":  {answer(200, `[{"name":"rabbit@a","running":true}]`), []Node{{Name: "rabbit@a", Running: true}}},
		"empty":          {answer(200, `[]`), nil},
		"nameless":       {answer(200, `[{}]`), nil},
		"object":         {answer(200, `{"error":"x"}`), nil},
		"cut off":        {answer(200, `[{"name":"rabb`), nil},
		"not authorised": {answer(401, `{"error":"not_authorised"}`), nil},
		"not found":      {answer(404, `{}`), nil},
		"elsewhere":      {http.RedirectHandler("/other", http.StatusFound).ServeHTTP, nil},
		"down":           {answer(503, ""), nil},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write([]byte(`[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[`))
			}
		}, nil},
		"silent": {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(tt.handler)
			defer s.Close()
			ctx, cancel := t.Context(), func() {}
			if name == "silent" {
				ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
			}
			defer cancel()
			got, err := Nodes(ctx, s.URL+"/mq/", "alice", secret)
			if tt.want != nil && (err != nil || !reflect.DeepEqual(got, tt.want)) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
			if tt.want == nil {
				unknown(t, got, err)
			}
		})
	}
}

func unknown(t *testing.T, got []Node, err error) {
	t.Helper()
	if !errors.Is(err, ErrUnknown) || got != nil || strings.Contains(err.Error(), secret) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestNodesUnreachable(t *testing.T) {
	noLeaks(t)
	s := httptest.NewServer(nil)
	s.Close()
	for _, base := range []string{s.URL, strings.Replace(s.URL, "http://", "http://alice:"+secret+"@", 1), "127.0.0.1:15672", "http://alice:" + secret + "%zz@x", ""} {
		got, err := Nodes(t.Context(), base, "alice", secret)
		unknown(t, got, err)
	}
}

func TestNodesTLS(t *testing.T) {
	noLeaks(t)
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`[{"name":"rabbit@a","running":true}]`))
	}))
	defer s.Close()
	if got, err := Nodes(t.Context(), s.URL, "alice", secret); err != nil || len(got) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}
