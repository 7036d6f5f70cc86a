package companion

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"rmq-entrypoint/internal/config"
	"rmq-entrypoint/internal/overview"
)

// own answers this program's own commands, at a socket that nobody else reaches.
func (c *companion) own() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, req *http.Request) {
		asks(req)
		w.Header().Set("Content-Type", "application/json")
		_ = c.board.read().Print(w)
	})
	c.page(mux, "GET /cluster", "application/json", overview.Document.JSON)
	return mux
}

// admin answers operators and their programs: the whole cluster as a page, as JSON, and as
// metrics. Nothing there can be changed, and nothing is a secret.
func (c *companion) admin() http.Handler {
	mux := http.NewServeMux()
	c.page(mux, "GET /{$}", "text/html; charset=utf-8", overview.Document.HTML)
	c.page(mux, "GET /cluster", "application/json", overview.Document.JSON)
	c.page(mux, "GET /metrics", "text/plain; version=0.0.4; charset=utf-8", overview.Document.Metrics)
	return ofThisHost(c.Runtime.Config, mux)
}

// page has mux answer with the document, written so.
func (c *companion) page(mux *http.ServeMux, pattern, kind string, write func(overview.Document, io.Writer) error) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
		asks(req)
		h := w.Header()
		h.Set("Content-Type", kind)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		_ = write(c.board.cluster.document(req.Context(), c.board.read()), w)
	})
}

// ofThisHost refuses questions to a name that a stranger may have led here: a page of theirs could
// read the answers by it (DNS rebinding). Addresses, names without a dot, this host's own names and
// those in Consul's domain are nobody else's.
func ofThisHost(cfg config.Config, next http.Handler) http.Handler {
	_, own, _ := strings.Cut(cfg.Node, "@")
	at, _, _ := net.SplitHostPort(cfg.Admin)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host := req.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
		_, err := netip.ParseAddr(host)
		switch {
		case err == nil, !strings.Contains(host, "."), strings.EqualFold(host, own), strings.EqualFold(host, at):
		case strings.HasSuffix(host, ".localhost"), strings.HasSuffix(host, "."+strings.ToLower(cfg.DNSDomain)):
		default:
			http.Error(w, "this host has another name: ask by its address, its host name, or a name in Consul's domain", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, req)
	})
}
