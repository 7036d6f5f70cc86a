package healthcheck

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTLS(t *testing.T) {
	ca, server := certificates(t, "node1.example")
	other, _ := certificates(t, "node2.example")
	for name, tt := range map[string]struct {
		query string
		state State
		word  string
	}{
		"no CA":      {"", Passing, "amqps://"},
		"CA":         {"?cacertfile=" + ca, Passing, "amqps://"},
		"other CA":   {"?cacertfile=" + other, Critical, "TLS handshake"},
		"name":       {"?cacertfile=" + ca + "&server_name_indication=node1.example", Passing, "amqps://"},
		"other name": {"?cacertfile=" + ca + "&server_name_indication=node2.example", Critical, "node2.example"},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			s := serve(t, &tls.Config{Certificates: []tls.Certificate{server}}, nil)
			c := checker(t, Options{URLs: []string{"amqps://" + s.ln.Addr().String() + tt.query}})
			want(t, look(t, c), tt.state, tt.word)
		})
	}
	t.Run("plain on the TLS port", func(t *testing.T) {
		noLeaks(t)
		s := serve(t, &tls.Config{Certificates: []tls.Certificate{server}}, nil)
		want(t, look(t, checker(t, Options{URLs: []string{s.url()}, Timeout: 200 * time.Millisecond})), Critical)
	})
	t.Run("TLS on the plain port", func(t *testing.T) {
		noLeaks(t)
		s := serve(t, nil, nil)
		want(t, look(t, checker(t, Options{URLs: []string{strings.Replace(s.url(), "amqp:", "amqps:", 1)}})), Critical)
	})
	if conf := local(&tls.Config{}, "mq.example"); conf.InsecureSkipVerify || conf.ServerName != "mq.example" {
		t.Error("a node elsewhere must be verified by name")
	}
}

// certificates makes an authority, whose certificate is in a file, and a server certificate
// for name.
func certificates(t *testing.T, name string) (caFile string, server tls.Certificate) {
	t.Helper()
	sign := func(tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
		tmpl.SerialNumber, tmpl.NotAfter = big.NewInt(1), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	self := &x509.Certificate{Subject: pkix.Name{CommonName: "CA of " + name}, IsCA: true, BasicConstraintsValid: true}
	ca := sign(self, self, key, key)
	leaf := sign(&x509.Certificate{DNSNames: []string{name}}, ca, key, key)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return caFile, tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
}
