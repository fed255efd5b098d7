package upstream

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// TLSOptions configure how an https:// proxy is verified, and which client certificate the gateway presents
// to it. With the zero value, the system's certificate authorities verify the proxy, and the gateway presents
// no certificate.
type TLSOptions struct {
	CAFile   string // PEM file with the certificate authorities that verify the proxy, in place of the system's
	Insecure bool   // the proxy is not verified
	Cert     string // PEM file of the client certificate, with its chain
	Key      string // PEM file of the key of Cert
}

// TLS holds TLSOptions with the contents of their files. It is immutable. Proxies with the same options may share a
// TLS.
type TLS struct {
	TLSOptions
	sum         [sha256.Size]byte // of the files
	roots       *x509.CertPool    // nil for the system's certificate authorities
	certificate *tls.Certificate  // nil for none
	sessions    tls.ClientSessionCache
}

// maxSessions is the maximum number of TLS sessions that the proxies with the same TLS keep for
// resumption.
const maxSessions = 256

// LoadTLS reads the files of o with the function read. It returns nil for the zero value. The error is a *SpecError.
func LoadTLS(o TLSOptions, read func(path string) ([]byte, error)) (*TLS, error) {
	if o == (TLSOptions{}) {
		return nil, nil
	}
	bad := func(field, format string, args ...any) error { return &SpecError{field, fmt.Sprintf(format, args...)} }
	if (o.Cert == "") != (o.Key == "") {
		return nil, bad("cert", "cert and key belong together")
	}
	t := &TLS{TLSOptions: o, sessions: tls.NewLRUClientSessionCache(maxSessions)}
	sum := sha256.New()
	file := func(field, path string) (data []byte, err error) {
		if path == "" {
			return nil, nil
		}
		if data, err = read(path); err != nil {
			return nil, bad(field, "%s: %v", field, err)
		}
		fmt.Fprintf(sum, "%d %s", len(data), data)
		return data, nil
	}
	ca, err := file("ca_file", o.CAFile)
	if err != nil {
		return nil, err
	}
	if o.CAFile != "" {
		t.roots = x509.NewCertPool()
		if !t.roots.AppendCertsFromPEM(ca) {
			return nil, bad("ca_file", "ca_file %s has no certificate in PEM form", o.CAFile)
		}
	}
	cert, err := file("cert", o.Cert)
	if err != nil {
		return nil, err
	}
	key, err := file("key", o.Key)
	if err != nil {
		return nil, err
	}
	if o.Cert != "" {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, bad("cert", "cert and key are not a certificate and its key: %v", err)
		}
		t.certificate = &pair
	}
	t.sum = [sha256.Size]byte(sum.Sum(nil))
	return t, nil
}

// Apply sets the options in the settings of a connection to the proxy.
func (t *TLS) Apply(c *tls.Config) {
	if t.roots != nil {
		c.RootCAs = t.roots
	}
	if t.certificate != nil {
		c.Certificates = []tls.Certificate{*t.certificate}
	}
	// The sessions of t are used, because a TLS session can be resumed only with the options that it began with.
	c.InsecureSkipVerify, c.ClientSessionCache = t.Insecure, t.sessions
}

func (t *TLS) equal(o *TLS) bool {
	if t == nil || o == nil {
		return t == o
	}
	return t.TLSOptions == o.TLSOptions && bytes.Equal(t.sum[:], o.sum[:])
}
