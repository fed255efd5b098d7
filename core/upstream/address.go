package upstream

import (
	"encoding"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// Secret is a text that must not appear in logs, errors or responses. Printing and encoding it give "***".
// Reveal returns the text.
type Secret string

const mask = "***"

// If a Secret lacked one of these interfaces, fmt or an encoder would write it in clear text.
var (
	_ fmt.Stringer           = Secret("")
	_ fmt.GoStringer         = Secret("")
	_ encoding.TextMarshaler = Secret("")
)

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString implements fmt.GoStringer, so that %#v does not print the text.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText implements encoding.TextMarshaler, so that JSON and TOML do not contain the text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal returns the text itself, to send it to the proxy.
func (s Secret) Reveal() string { return string(s) }

// The schemes of a proxy's URL. socks5 and socks5h mean the same: the proxy resolves the target's
// name (RFC 1928). socks4 and socks4a mean the same, too: a name is sent in the form of SOCKS4A.
const (
	HTTP    = "http"
	HTTPS   = "https"
	SOCKS4  = "socks4"
	SOCKS4A = "socks4a"
	SOCKS5  = "socks5"
	SOCKS5H = "socks5h"
	Direct  = "direct" // no proxy: connect to the target itself
)

// Address is the address of a proxy with its credentials. Two addresses that differ in any field
// stand for different proxies.
type Address struct {
	Scheme   string
	Host     string // host:port in lower case, IPv6 in brackets; "" for direct://
	Username string
	Password Secret
}

var defaultPort = map[string]string{HTTP: "80", HTTPS: "443", SOCKS4: "1080", SOCKS4A: "1080", SOCKS5: "1080",
	SOCKS5H: "1080"}

// schemeConstant returns the constant that is equal to the given scheme, such as HTTP; "" if there is none.
func schemeConstant(scheme string) string {
	for _, known := range [...]string{HTTP, HTTPS, SOCKS4, SOCKS4A, SOCKS5, SOCKS5H} {
		if known == scheme {
			return known
		}
	}
	return ""
}

// ProxySchemes names the schemes of proxies in messages.
const ProxySchemes = "http, https, socks4, socks4a, socks5 or socks5h"

// SchemeNames returns the schemes of proxies.
func SchemeNames() []string { return []string{HTTP, HTTPS, SOCKS4, SOCKS4A, SOCKS5, SOCKS5H} }

// IsProxyScheme reports whether s, in lower case, is the scheme of a proxy.
func IsProxyScheme(s string) bool { return defaultPort[s] != "" }

// IsSOCKS reports whether the scheme is a version of SOCKS.
func IsSOCKS(scheme string) bool { return strings.HasPrefix(scheme, "socks") }

// ParseAddress parses a proxy's URL: scheme://[user[:password]@]host[:port]. User name and
// password may be percent-encoded, but '@' and ':' in a password need not be. Its errors never
// quote a part that may be a credential.
func ParseAddress(s string) (Address, error) {
	scheme, rest, ok := strings.Cut(strings.TrimSpace(s), "://")
	if !ok {
		return Address{},
			errors.New("a proxy's URL needs a scheme: http://, https://, socks4://, socks4a://, socks5://, " +
				"socks5h:// or direct://")
	}
	a := Address{Scheme: strings.ToLower(scheme)}
	rest = strings.TrimSuffix(rest, "/")
	if a.Scheme == Direct {
		if rest != "" {
			return Address{}, errors.New("direct:// takes neither host nor credentials")
		}
		return a, nil
	}
	port, known := defaultPort[a.Scheme]
	a.Scheme = schemeConstant(a.Scheme) // the constant, because a part of s would keep the whole text s in memory
	if !known {
		return Address{}, errors.New("unknown scheme: use http, https, socks4, socks4a, socks5, socks5h or direct" +
			strict.DidYouMean(scheme, append(SchemeNames(), Direct)))
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		if err := CheckTemplates(rest[:i]); err != nil {
			return Address{}, err
		}
		user, password, _ := strings.Cut(rest[:i], ":")
		a.Username, a.Password, rest = unescape(user), Secret(unescape(password)), rest[i+1:]
		if strings.ContainsAny(a.Username+string(a.Password), "\r\n\x00") {
			return Address{}, errors.New("the user name or password contains a line break or NUL")
		}
	}
	if strings.Contains(rest, "/") {
		return Address{}, errors.New("a proxy's URL has no path")
	}
	host, err := HostPort(rest, port)
	if err != nil {
		return Address{}, err
	}
	if a.Host = host; host == rest && a.Username != "" {
		a.Host = rest // a part of s, like the user name, so that it takes no memory of its own
	}
	return a, nil
}

// unescape decodes %XX. It returns a text with an invalid %XX unchanged, since some vendors' passwords
// contain a bare %.
func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

// maxHost is the maximal length of a host in bytes, for domain names (RFC 1035) and SOCKS5 (RFC 1928).
const maxHost = 255

// HostPort checks host[:port] and returns it as host:port in lower case. The parameter defaultPort replaces a missing
// or empty port (RFC 3986, section 3.2.3). If defaultPort is empty, a port is required.
func HostPort(s, defaultPort string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, defaultPort
		if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
			host = s[1 : len(s)-1]
		} else if strings.HasPrefix(s, "[") && !strings.Contains(s, "]") {
			return "", errors.New("the bracket at the beginning of the host is not closed; an IPv6 address is " +
				"written as [2001:db8::1]:8080")
		} else if strings.ContainsAny(s, ":[]") {
			return "", errors.New("the host is not host:port, or an IPv6 address lacks its brackets")
		}
	}
	v6 := strings.HasPrefix(s, "[")
	if v6 {
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return "", errors.New("the text in brackets is not an IPv6 address")
		}
	}
	if port == "" {
		port = defaultPort
	}
	if port == "" {
		return "", errors.New("the port is missing")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || strings.HasPrefix(port, "+") {
		return "", errors.New("the port is not a number from 1 to 65535")
	}
	port = strings.TrimLeft(port, "0")
	if host == "" {
		return "", errors.New("the host is missing")
	}
	if host = strings.ToLower(host); len(host) > maxHost {
		return "", errors.New("the host has more than 255 bytes")
	}
	// '%' begins the zone of an IPv6 address; it is not allowed in any other host
	if strings.ContainsFunc(host, isForbiddenInHost) || !v6 && strings.Contains(host, "%") {
		return "", errors.New("the host contains a character that is not allowed in a host name")
	}
	return net.JoinHostPort(host, port), nil
}

// isForbiddenInHost reports whether a character is allowed neither in a host name nor in an IP address.
func isForbiddenInHost(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune("/\\@?#<>\"'`{}|^=!$&()*+,;~", r)
}

// idBase returns the part of the address from which AssignIDs makes the id.
func (a Address) idBase() string {
	if a.Scheme == Direct {
		return Direct
	}
	return a.Host
}

// HasMaskedCredentials reports whether the address was parsed from a URL in which Redacted has masked the credentials.
func (a Address) HasMaskedCredentials() bool { return a.Username == mask && a.Password == "" }

// Redacted returns the address as a URL without its credentials.
func (a Address) Redacted() string {
	credentials := ""
	if a.Username != "" || a.Password != "" {
		credentials = mask + "@"
	}
	return fmt.Sprintf("%s://%s%s", a.Scheme, credentials, a.Host)
}

// String returns Redacted, so that no format verb can print credentials.
func (a Address) String() string { return a.Redacted() }
