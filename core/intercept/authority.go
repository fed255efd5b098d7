package intercept

import (
	"bytes"
	"container/list"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// backdating is the time by which the validity of a certificate begins before its signing, because the clocks of
	// some clients are slow.
	backdating = time.Hour
	// validity is the time for which the certificate of a target is valid. Browsers accept at most 397 days.
	validity = 30 * 24 * time.Hour
	// minRemaining is the remaining validity below which a new certificate is signed.
	minRemaining = validity / 3
	// maxCertificates is the maximum number of certificates that an Authority keeps.
	maxCertificates = 4096
)

// Authority signs the certificates of targets, and keeps those that were used last. All these certificates have the
// same key. Load makes this key, which is never written to a file. An Authority is safe for concurrent use.
type Authority struct {
	cert    *x509.Certificate
	key     crypto.Signer
	chain   [][]byte // sent after a target's certificate: cert and the certificates above it, without the root; DER
	roots   *x509.CertPool
	leafKey *ecdsa.PrivateKey // the key of all certificates of targets
	now     func() time.Time

	mu     sync.Mutex
	byHost map[string]*list.Element // of entries; guarded by mu
	recent *list.List               // of *entry; the entry that was used last is the first; guarded by mu
}

type entry struct {
	host string
	cert *tls.Certificate
}

// Load returns the authority with the given certificate and key, both in PEM form. In certPEM, the authority's
// certificate may be followed by the certificates of the authorities above it.
func Load(certPEM, keyPEM []byte, now func() time.Time) (*Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the authority's certificate and key do not belong together: %w", err)
	}
	a := &Authority{
		cert: pair.Leaf, roots: x509.NewCertPool(), now: now,
		byHost: map[string]*list.Element{}, recent: list.New(),
	}
	var ok bool
	if a.key, ok = pair.PrivateKey.(crypto.Signer); !ok {
		return nil, errors.New("the authority's key cannot sign")
	}
	if err := a.check(now()); err != nil {
		return nil, err
	}
	a.roots.AddCert(a.cert)
	for _, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("a certificate of the authority's chain: %w", err)
		}
		if !bytes.Equal(c.RawSubject, c.RawIssuer) {
			a.chain = append(a.chain, der)
		}
	}
	if a.leafKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	return a, nil
}

// check returns an error if the certificate does not belong to an authority, or is not valid now.
func (a *Authority) check(now time.Time) error {
	c := a.cert
	switch {
	case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("the certificate is not the certificate of an authority; `whirlpool ca create` makes one")
	case now.After(c.NotAfter):
		return fmt.Errorf("the authority's certificate has expired on %s; `whirlpool ca create` makes another one",
			c.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(c.NotBefore):
		return fmt.Errorf("the authority's certificate is valid from %s; is the clock right?",
			c.NotBefore.UTC().Format(time.DateTime))
	}
	return nil
}

// Parse returns the authority's certificate, without its key.
func Parse(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("has no certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Fingerprint returns the SHA-256 fingerprint of a certificate as browsers show it.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// Expires returns the time after which the authority's certificate is not valid.
func (a *Authority) Expires() time.Time { return a.cert.NotAfter }

// HasSameCertificate reports whether a and b have the same certificate. Both may be nil.
func (a *Authority) HasSameCertificate(b *Authority) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.cert.Equal(b.cert)
}

// Certificate returns a certificate for host: a domain name in lower case, or an address without brackets. Certificate
// returns an error if host is not valid, or if the constraints of the authority exclude host.
func (a *Authority) Certificate(host string) (*tls.Certificate, error) {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	element := a.byHost[host]
	if element != nil {
		e := element.Value.(*entry)
		if a.isUsable(e.cert.Leaf, now) {
			a.recent.MoveToFront(element)
			return e.cert, nil
		}
	}
	cert, err := a.sign(host, now)
	if err != nil {
		return nil, err
	}
	if element != nil {
		element.Value.(*entry).cert = cert
		a.recent.MoveToFront(element)
		return cert, nil
	}
	a.byHost[host] = a.recent.PushFront(&entry{host, cert})
	if a.recent.Len() > maxCertificates {
		last := a.recent.Back()
		a.recent.Remove(last)
		delete(a.byHost, last.Value.(*entry).host)
	}
	return cert, nil
}

// isUsable reports whether the certificate of a target can still be used. It must be valid for at least minRemaining. A
// certificate that ends together with the authority's certificate need only be valid now, because a new certificate
// would end at the same time.
func (a *Authority) isUsable(c *x509.Certificate, now time.Time) bool {
	until := c.NotAfter
	if until.Before(a.cert.NotAfter) {
		until = until.Add(-minRemaining)
	}
	return !now.Before(c.NotBefore) && now.Before(until)
}

// sign makes a certificate for host, and verifies it as a client does, because the constraints of the authority may
// exclude host.
func (a *Authority) sign(host string, now time.Time) (*tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: newSerial(), NotBefore: now.Add(-backdating), NotAfter: now.Add(validity),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if template.NotBefore.Before(a.cert.NotBefore) {
		template.NotBefore = a.cert.NotBefore
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else if validName(host) {
		template.DNSNames = []string{host}
	} else {
		return nil, fmt.Errorf("%q is not a name for a certificate", host)
	}
	if len(host) <= 64 { // the maximum length of a common name (RFC 5280 appendix A.1)
		template.Subject = pkix.Name{CommonName: host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, a.leafKey.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: a.roots, CurrentTime: now}); err != nil {
		return nil, fmt.Errorf("the authority cannot sign for %s: %w", host, err)
	}
	return &tls.Certificate{
		Certificate: append([][]byte{der}, a.chain...), PrivateKey: a.leafKey, Leaf: leaf,
	}, nil
}

// String returns the subject of the authority's certificate. Because of String, package fmt does not print the key.
func (a *Authority) String() string { return a.cert.Subject.String() }

// GoString returns the subject as well, for the verb %#v of package fmt.
func (a *Authority) GoString() string { return "intercept.Authority(" + a.String() + ")" }
