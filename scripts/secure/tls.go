package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// How long certificates hold: the CA longer than any of its own, and these short enough that somebody notices before
// the one who made them is gone. Another run renews what ends within renewal.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 397 * 24 * time.Hour // as long as browsers take
	renewal  = 60 * 24 * time.Hour
)

// A leaf is a certificate to make: for whom, and by which names. Each is shown to servers, too: nodes connect to nodes,
// and a Consul server to others.
type leaf struct {
	service string
	names   []string
}

// makeTLS makes the CA and a certificate each for Consul and the nodes, where there is none that will do. The balancer
// and clients get the CA's certificate alone: the balancer passes TLS on, and has nothing to be stolen.
func makeTLS(dir string, nodes, names []string, now time.Time) error {
	ca, key, err := authority(dir, now)
	if err != nil {
		return err
	}
	loopback := []string{"localhost", "127.0.0.1", "::1"}
	// server.dc1.consul is what Consul asks of its own servers (verify_server_hostname).
	leaves := []leaf{{"consul", append([]string{"consul", "server.dc1.consul"}, loopback...)}}
	for _, node := range nodes {
		all := slices.Concat([]string{node, "rabbitmq.service.consul", "rabbitmq-management.service.consul", "haproxy"}, loopback, names)
		leaves = append(leaves, leaf{node, all})
	}
	for _, l := range leaves {
		if err := l.make(dir, ca, key, now); err != nil {
			return err
		}
	}
	for _, service := range append([]string{"consul", "haproxy", "client"}, nodes...) {
		if err := public(filepath.Join(dir, service, "ca.pem"), pemOf("CERTIFICATE", ca.Raw)); err != nil {
			return err
		}
	}
	return nil
}

// authority returns the CA of dir, made where there is none. One without its key, or the other way round, is an error:
// a second CA would part the nodes.
func authority(dir string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem")
	certPEM, certErr := os.ReadFile(certFile)
	keyPEM, keyErr := os.ReadFile(keyFile)
	if errors.Is(certErr, fs.ErrNotExist) && errors.Is(keyErr, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, fmt.Errorf("make the CA's key: %w", err)
		}
		cert := &x509.Certificate{
			Subject: pkix.Name{CommonName: "rmq-entrypoint CA"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife),
		}
		if cert, err = sign(cert, cert, key, key); err != nil {
			return nil, nil, err
		}
		if err := writeKey(keyFile, key); err != nil {
			return nil, nil, err
		}
		return cert, key, write(certFile, pemOf("CERTIFICATE", cert.Raw), 0o644)
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, nil, fmt.Errorf("read the CA: %w: put both files back, or remove both and the directories of all services", err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, nil, fmt.Errorf("%s holds no key", keyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	if left := cert.NotAfter.Sub(now); left < certLife {
		return nil, nil, fmt.Errorf("the CA in %s ends on %s, before a certificate of it would: make another in another directory, and have all trust both meanwhile",
			certFile, cert.NotAfter.Format(time.DateOnly))
	}
	return cert, key, nil
}

// make makes the certificate, unless there is one of this CA with these names that holds for a while yet.
func (l leaf) make(dir string, ca *x509.Certificate, caKey *ecdsa.PrivateKey, now time.Time) error {
	certFile, keyFile := filepath.Join(dir, l.service, "cert.pem"), filepath.Join(dir, l.service, "key.pem")
	if had, err := os.ReadFile(certFile); err == nil && there(keyFile) {
		if cert, err := parseCert(had); err == nil && l.good(cert, ca, now) {
			return nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key for %s: %w", l.service, err)
	}
	cert := &x509.Certificate{
		Subject: pkix.Name{CommonName: l.service}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range l.names {
		if ip := net.ParseIP(name); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else {
			cert.DNSNames = append(cert.DNSNames, name)
		}
	}
	if cert, err = sign(cert, ca, key, caKey); err != nil {
		return err
	}
	// The certificate last: without it, or with one of another key, the next run makes both anew.
	if err := os.Remove(certFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace the certificate of %s: %w", l.service, err)
	}
	if err := writeKey(keyFile, key); err != nil {
		return err
	}
	return write(certFile, pemOf("CERTIFICATE", cert.Raw), 0o644)
}

// good reports whether a certificate does what l is to do, at now and for a while after.
func (l leaf) good(cert, ca *x509.Certificate, now time.Time) bool {
	if cert.CheckSignatureFrom(ca) != nil || cert.NotAfter.Sub(now) < renewal || cert.NotBefore.After(now) {
		return false
	}
	return !slices.ContainsFunc(l.names, func(name string) bool { return cert.VerifyHostname(name) != nil })
}

// sign makes the certificate that tmpl describes.
func sign(tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	tmpl.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return write(path, pemOf("PRIVATE KEY", der), 0o600)
}

// public writes a file that everybody may read, unless it is there as it should be.
func public(path string, data []byte) error {
	if had, err := os.ReadFile(path); err == nil && slices.Equal(had, data) {
		return nil
	}
	return write(path, data, 0o644)
}

func parseCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("there is no certificate in it")
	}
	return x509.ParseCertificate(block.Bytes)
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
