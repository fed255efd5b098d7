package intercept

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// clock is a clock for tests.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func create(t require.TestingT, o Options) (*Authority, *clock, *x509.CertPool) {
	certPEM, keyPEM, err := Create(o, noon)
	require.NoError(t, err)
	at := &clock{noon}
	a, err := Load(certPEM, keyPEM, at.Now)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(certPEM))
	return a, at, roots
}

// A client that trusts the authority accepts its certificates for a name and for an address.
func TestClientsAcceptTheCertificates(t *testing.T) {
	a, at, roots := create(t, Options{})
	for _, host := range []string{
		"example.com", "127.0.0.1", "::1", "_srv.example.com", strings.Repeat("a.", 100) + "com",
	} {
		cert, err := a.Certificate(host)
		require.NoError(t, err, host)
		near, far := net.Pipe()
		errs := make(chan error, 1)
		go func() {
			errs <- tls.Client(near, &tls.Config{ServerName: host, RootCAs: roots, Time: at.Now}).Handshake()
			near.Close()
		}()
		require.NoError(t, tls.Server(far, &tls.Config{Certificates: []tls.Certificate{*cert}}).Handshake(), host)
		require.NoError(t, <-errs, host)
		require.Equal(t, noon.Add(-time.Hour), cert.Leaf.NotBefore)
		require.LessOrEqual(t, cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore), 397*24*time.Hour)
		require.Len(t, cert.Certificate, 1, "the root is not sent")
	}
	for _, host := range []string{"", "a b", "*.example.com", "exa/mple", "a..b", strings.Repeat("a", 64) + ".com"} {
		_, err := a.Certificate(host)
		require.Error(t, err, host)
	}
}

// A certificate is kept, and signed again before it ends, or if the clock is set back.
func TestCertificatesAreSignedAgain(t *testing.T) {
	a, at, _ := create(t, Options{Validity: 100 * 24 * time.Hour})
	first, err := a.Certificate("example.com")
	require.NoError(t, err)
	at.now = noon.Add(validity - minRemaining - time.Second)
	second, err := a.Certificate("example.com")
	require.NoError(t, err)
	require.Same(t, first, second)
	at.now = noon.Add(validity - minRemaining)
	third, err := a.Certificate("example.com")
	require.NoError(t, err)
	require.NotSame(t, first, third)
	require.Equal(t, first.PrivateKey, third.PrivateKey)
	require.NotEqual(t, first.Leaf.SerialNumber, third.Leaf.SerialNumber)
	require.Equal(t, 1, a.recent.Len())
	at.now = noon
	fourth, err := a.Certificate("example.com")
	require.NoError(t, err)
	require.NotSame(t, third, fourth, "the third is not valid yet")

	at.now = noon.Add(95 * 24 * time.Hour) // the authority ends in 5 days
	last, err := a.Certificate("example.com")
	require.NoError(t, err)
	require.Equal(t, a.Expires(), last.Leaf.NotAfter)
	again, err := a.Certificate("example.com")
	require.NoError(t, err)
	require.Same(t, last, again, "a new one would not be valid for longer")
	at.now = a.Expires().Add(time.Second)
	_, err = a.Certificate("example.com")
	require.Error(t, err)
}

// The number of certificates is limited; those that were used last stay.
func TestTheCertificatesAreLimited(t *testing.T) {
	a, _, _ := create(t, Options{})
	kept, err := a.Certificate("kept.test")
	require.NoError(t, err)
	for i := range maxCertificates + 10 {
		host := fmt.Sprintf("h%d.test", i)
		a.byHost[host] = a.recent.PushFront(&entry{host, kept}) // signing takes 0.2 ms
		if i%100 == 0 {
			again, err := a.Certificate("kept.test")
			require.NoError(t, err)
			require.Same(t, kept, again)
			_, err = a.Certificate(fmt.Sprintf("new%d.test", i)) // drops one
			require.NoError(t, err)
		}
	}
	for a.recent.Len() > maxCertificates {
		last := a.recent.Back()
		require.NotEqual(t, "kept.test", last.Value.(*entry).host)
		a.recent.Remove(last)
	}
	_, err = a.Certificate("one-more.test")
	require.NoError(t, err)
	require.Equal(t, maxCertificates, a.recent.Len())
}

// An authority with constraints signs only for what they permit, and clients refuse everything else.
func TestConstraints(t *testing.T) {
	for name, c := range map[string]struct {
		constraints       []string
		permits, excludes []string
	}{
		"domain": {[]string{"Example.com"}, []string{"example.com", "a.b.example.com"},
			[]string{"example.org", "badexample.com", "127.0.0.1", "::1"}},
		"with a star": {[]string{"*.example.com"}, []string{"example.com", "a.example.com"}, []string{"com"}},
		"network":     {[]string{"10.1.0.0/16"}, []string{"10.1.2.3"}, []string{"10.2.0.1", "a.test", "::1"}},
		"address and domains": {[]string{"::1", "a.test", "b.test"}, []string{"::1", "b.test"},
			[]string{"::2", "c.test"}},
	} {
		a, _, _ := create(t, Options{Constraints: c.constraints})
		for _, host := range c.permits {
			_, err := a.Certificate(host)
			require.NoError(t, err, "%s: %s", name, host)
		}
		for _, host := range c.excludes {
			_, err := a.Certificate(host)
			require.ErrorContains(t, err, "cannot sign for", "%s: %s", name, host)
		}
	}
	for _, wrong := range []string{"", "a b", "http://a.test", "10.0.0.0/33", "a.test:443", "fe80::1%eth0"} {
		_, _, err := Create(Options{Constraints: []string{wrong}}, noon)
		require.ErrorContains(t, err, "is not a domain", wrong)
	}
}

func TestAuthoritiesThatCannotBeUsed(t *testing.T) {
	certPEM, keyPEM, err := Create(Options{Validity: 24 * time.Hour}, noon)
	require.NoError(t, err)
	_, other, err := Create(Options{}, noon)
	require.NoError(t, err)
	load := func(cert, key []byte, at time.Time) error {
		_, err := Load(cert, key, func() time.Time { return at })
		return err
	}
	require.NoError(t, load(certPEM, keyPEM, noon))
	require.ErrorContains(t, load(certPEM, other, noon), "do not belong together")
	require.ErrorContains(t, load(certPEM, keyPEM, noon.Add(25*time.Hour)), "expired on 2026-11-30")
	require.ErrorContains(t, load(certPEM, keyPEM, noon.Add(-2*time.Hour)), "clock")
	_, _, err = Create(Options{Validity: time.Hour}, noon)
	require.ErrorContains(t, err, "24h")

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "x"}, NotBefore: noon,
		NotAfter: noon.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	require.NoError(t, err)
	leafKey, err := encodeKey(key)
	require.NoError(t, err)
	err = load(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), leafKey, noon)
	require.ErrorContains(t, err, "not the certificate of an authority")
}

// An authority that another one has signed sends its own certificate with each certificate.
func TestTheChainIsSent(t *testing.T) {
	rootPEM, rootKeyPEM, err := Create(Options{}, noon)
	require.NoError(t, err)
	root, err := Parse(rootPEM)
	require.NoError(t, err)
	root.MaxPathLenZero, root.MaxPathLen = false, 1
	pair, err := tls.X509KeyPair(rootPEM, rootKeyPEM)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "between"}, NotBefore: noon,
		NotAfter: noon.Add(90 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, root, key.Public(), pair.PrivateKey)
	require.NoError(t, err)
	keyPEM, err := encodeKey(key)
	require.NoError(t, err)
	certs := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), rootPEM...)
	a, err := Load(certs, keyPEM, (&clock{noon}).Now)
	require.NoError(t, err)
	leaf, err := a.Certificate("example.com")
	require.NoError(t, err)
	require.Len(t, leaf.Certificate, 2)
	require.Equal(t, der, leaf.Certificate[1])
}

// No text form of an authority contains the key.
func TestTheKeyIsNotPrinted(t *testing.T) {
	certPEM, keyPEM, err := Create(Options{}, noon)
	require.NoError(t, err)
	a, err := Load(certPEM, keyPEM, (&clock{noon}).Now)
	require.NoError(t, err)
	d, err := a.key.(*ecdsa.PrivateKey).Bytes()
	require.NoError(t, err)
	secret := []string{
		new(big.Int).SetBytes(d).String(), fmt.Sprintf("%x", d), fmt.Sprint(d), strings.Split(string(keyPEM), "\n")[1],
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, text := range secret {
			require.NotContains(t, fmt.Sprintf(format, a), text)
		}
	}
	b, err := Load(certPEM, keyPEM, (&clock{noon}).Now)
	require.NoError(t, err)
	require.True(t, a.HasSameCertificate(b))
	other, _, _ := create(t, Options{})
	require.False(t, a.HasSameCertificate(other))
	require.False(t, a.HasSameCertificate(nil))
	require.True(t, (*Authority)(nil).HasSameCertificate(nil))
}

// For each constraint and host, the authority signs exactly if the constraint is a suffix of the host by labels.
func TestConstraintsAreSuffixes(t *testing.T) {
	label := rapid.SampledFrom([]string{"a", "b", "ab", "com"})
	rapid.Check(t, func(t *rapid.T) {
		constraint := strings.Join(rapid.SliceOfN(label, 1, 3).Draw(t, "constraint"), ".")
		host := strings.Join(rapid.SliceOfN(label, 1, 4).Draw(t, "host"), ".")
		a, _, _ := create(t, Options{Constraints: []string{constraint}})
		_, err := a.Certificate(host)
		require.Equal(t, host == constraint || strings.HasSuffix(host, "."+constraint), err == nil)
	})
}

// FuzzHost: a name from a client's ClientHello is refused, or gets a certificate that is valid for it.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"example.com", "127.0.0.1", "::1", "*.a", "a..b", "\x00", "xn--bcher-kva.de", "A.com"} {
		f.Add(s)
	}
	a, _, _ := create(f, Options{})
	f.Fuzz(func(t *testing.T, host string) {
		cert, err := a.Certificate(host)
		if err == nil {
			require.NoError(t, cert.Leaf.VerifyHostname(host))
		}
	})
}
