package intercept

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"time"
)

// DefaultValidity is the time for which a new authority is valid: 10 years.
const DefaultValidity = 3652 * 24 * time.Hour

// Options describe a new authority.
type Options struct {
	Name     string        // common name, which browsers show in their lists of authorities; "" for a default
	Validity time.Duration // at least a day; 0 for DefaultValidity
	// Constraints are the domains (with their subdomains), addresses and networks for which the authority may sign
	// certificates. Clients refuse a certificate of the authority for any name that the constraints do not include.
	// Nil for no constraints.
	Constraints []string
}

// Create makes an authority: a self-signed certificate and its key (ECDSA P-256), both in PEM form.
func Create(o Options, now time.Time) (certPEM, keyPEM []byte, err error) {
	if o.Name == "" {
		o.Name = "Whirlpool interception " + now.UTC().Format("2006-01-02 15:04")
	}
	if o.Validity == 0 {
		o.Validity = DefaultValidity
	}
	if o.Validity < 24*time.Hour {
		return nil, nil, fmt.Errorf("the authority would be valid for %v; at least 24h are needed", o.Validity)
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: o.Name, Organization: []string{"Whirlpool"}},
		NotBefore: now.Add(-backdating), NotAfter: now.Add(o.Validity),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if err := addConstraints(template, o.Constraints); err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), keyPEM, nil
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newSerial returns a random serial number of 127 bits. A serial number must be positive and have at most 20 bytes
// (RFC 5280 section 4.1.2.2).
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// addConstraints adds name constraints (RFC 5280 section 4.2.1.10) to a certificate. A constraint on domains does not
// restrict addresses, and a constraint on addresses does not restrict domains. So if only one of these kinds has a
// constraint, all names of the other kind are excluded.
func addConstraints(c *x509.Certificate, names []string) error {
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		if network, ok := parseNetwork(name); ok {
			c.PermittedIPRanges = append(c.PermittedIPRanges, network)
			continue
		}
		domain := strings.ToLower(strings.Trim(strings.TrimPrefix(name, "*"), "."))
		if !validName(domain) {
			return fmt.Errorf("%q is not a domain, an address or a network, such as example.com or 10.0.0.0/8", name)
		}
		c.PermittedDNSDomains = append(c.PermittedDNSDomains, domain)
	}
	c.PermittedDNSDomainsCritical = true
	if len(c.PermittedIPRanges) == 0 {
		c.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
	}
	if len(c.PermittedDNSDomains) == 0 {
		c.ExcludedDNSDomains = []string{""} // the empty name stands for every name
	}
	return nil
}

// parseNetwork parses an address or a network in CIDR notation.
func parseNetwork(s string) (*net.IPNet, bool) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		address, err := netip.ParseAddr(s)
		if err != nil || address.Zone() != "" {
			return nil, false
		}
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	prefix = prefix.Masked()
	return &net.IPNet{
		IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}, true
}

// validName reports whether s is a domain name in lower case. The name has at most 253 bytes, in labels of 1 to 63
// letters, digits, '-' and '_' (RFC 1035 section 2.3.4).
func validName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_')
		}) {
			return false
		}
	}
	return true
}
