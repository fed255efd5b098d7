package health

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Settings are the settings of health checks.
type Settings struct {
	URL      string        // http:// or https://; "" turns the checks off
	Interval time.Duration // between two checks of a proxy, > 0
	Jitter   float64       // share of Interval by which each wait varies at random, 0 to 1
	Timeout  time.Duration // for one check, > 0
	Expect   Expectation
	// Exit names the part of the response that contains the exit address, from which the proxy connects to the target.
	// ExitBody stands for the body, and "" for no part. Any other text is the name of a header field.
	Exit string
}

// ExitBody is the value of Settings.Exit if the body of the response contains the exit address (addressInBody).
const ExitBody = "body"

// Expectation is the expected response to a check. An empty Header or Body is not compared.
type Expectation struct {
	Status int    // 0 stands for all statuses from 200 to 299
	Header string // "Name": the field is present; "Name: text": its value contains the text
	Body   string // a text that the first 64 KiB of the body must contain
}

// DefaultSettings returns the default settings, which have no URL.
func DefaultSettings() Settings {
	return Settings{Interval: time.Minute, Jitter: 0.1, Timeout: 5 * time.Second}
}

// SettingError is an error in one setting.
type SettingError struct {
	Key string // url, interval, jitter, timeout, exit, expect.status or expect.header
	Msg string // does not quote the URL, which may contain a secret
}

func (e *SettingError) Error() string { return e.Key + " " + e.Msg }

// Check returns the errors in the settings, at most one for each key.
func (s *Settings) Check() (list []*SettingError) {
	bad := func(isWrong bool, key, msg string) {
		if isWrong {
			list = append(list, &SettingError{key, msg})
		}
	}
	name, _, _ := strings.Cut(s.Expect.Header, ":")
	bad(s.Interval <= 0, "interval", "must be above 0")
	bad(s.Timeout <= 0, "timeout", "must be above 0")
	bad(!(s.Jitter >= 0 && s.Jitter <= 1), "jitter", "must be 0 to 1")
	bad(s.Expect.Status != 0 && (s.Expect.Status < 200 || s.Expect.Status > 599), "expect.status",
		"must be 200 to 599, or 0 for 200 to 299")
	bad(s.Expect.Header != "" && !isToken(name), "expect.header",
		"must be the name of a header field, or \"Name: text\"")
	bad(s.Exit != "" && !isToken(s.Exit), "exit", "must be \"body\" or the name of a header field")
	if s.URL != "" {
		if _, err := ParseURL(s.URL); err != nil {
			bad(true, "url", err.Error())
		}
	}
	return list
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2), such as the name of a header field.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// Request is the request of a check. Its method is GET, and its other parts come from the URL.
type Request struct {
	TLS       bool   // the URL begins with https://
	Target    string // the request target in absolute form
	Path      string // the request target in origin form
	Host      string // value of the Host field
	Authority string // host:port in lower case
}

// ParseURL parses the URL of a check. Its errors do not quote the URL.
func ParseURL(raw string) (Request, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "":
		return Request{}, errors.New("must be an absolute http:// or https:// URL")
	case u.User != nil:
		return Request{}, errors.New("must not contain user information")
	case strings.ContainsFunc(u.Host+u.RequestURI(), func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return Request{}, errors.New("must be ASCII without spaces")
	}
	q := Request{TLS: u.Scheme == "https", Path: u.RequestURI(), Host: u.Host}
	port := "80"
	if q.TLS {
		port = "443"
	}
	if q.Authority, err = upstream.HostPort(u.Host, port); err != nil {
		return Request{}, err
	}
	q.Target = u.Scheme + "://" + u.Host + q.Path
	return q, nil
}

func (r *Request) target() evidence.Target { return upstream.Target(r.Authority) }

// SendForm is the form in which a check's request is sent.
type SendForm uint8

// The forms.
const (
	Absolute SendForm = iota // to the proxy, in absolute form
	Tunnel                   // through a tunnel to the target, with TLS if the URL is an https:// URL
)

// MaxBody is the maximum number of bytes that are read from a response's body.
const MaxBody = 64 << 10

// Response is the result of sending a check's request.
type Response struct {
	Facts    verdict.Facts // has an error or a status
	Header   http.Header
	Body     []byte        // the first MaxBody bytes of the body
	Duration time.Duration // time until the end of the body
}

// result is the result of sending a check's request in one form (SendForm).
type result struct {
	Response
	sent    bool
	passed  bool
	failure string // reason why the check has failed, as text for users
}

func (s *Settings) compare(r Response) result {
	out := result{Response: r, sent: true}
	switch fault := s.Expect.Difference(&r); {
	case r.Facts.Err != nil:
		out.failure = r.Facts.Err.Error()
	case fault != "":
		out.failure = fault
		out.Facts.FromProxy, out.Facts.ErrorPage = true, verdict.ErrorPageUnclear
	default:
		out.passed = true
	}
	return out
}

// Difference describes how the response differs from the expected response; "" if there is no difference.
func (e *Expectation) Difference(r *Response) string {
	status := r.Facts.Status
	switch {
	case r.Facts.OfferedSchemes != "" && status != e.Status: // a 407
		return (&verdict.SchemeError{Schemes: r.Facts.OfferedSchemes}).Error()
	case e.Status != 0 && status != e.Status:
		return fmt.Sprintf("the status is %d instead of %d", status, e.Status)
	case e.Status == 0 && (status < 200 || status > 299):
		return fmt.Sprintf("the status is %d instead of 200 to 299", status)
	}
	if name, text, _ := strings.Cut(e.Header, ":"); name != "" {
		text = strings.TrimSpace(text)
		values, given := r.Header[http.CanonicalHeaderKey(name)]
		if !given || !strings.Contains(strings.Join(values, ", "), text) {
			return "the header field " + name + " is missing or different"
		}
	}
	if !bytes.Contains(r.Body, []byte(e.Body)) {
		return "the body is different"
	}
	return ""
}

// ExitAddress returns the exit address in a response, or an invalid address if there is none. Its first argument is the
// value of Settings.Exit, which says where to find the address.
func ExitAddress(part string, r *Response) netip.Addr {
	text := ""
	switch part {
	case "":
		return netip.Addr{}
	case ExitBody:
		text = addressInBody(r.Body)
	default:
		text = r.Header.Get(part)
	}
	return parseAddress(text)
}

// addressInBody returns the address in the body of a service that reports it: the body as a whole or, if the body is a
// JSON object, the first valid address of the fields ip, ip_address, origin, query and address.
func addressInBody(body []byte) string {
	body = bytes.TrimSpace(body)
	if !bytes.HasPrefix(body, []byte("{")) {
		return string(body[:min(len(body), 100)])
	}
	var fields map[string]any
	if json.Unmarshal(body, &fields) != nil {
		return ""
	}
	for _, name := range []string{"ip", "ip_address", "origin", "query", "address"} {
		text, _ := fields[name].(string)
		// The origin of httpbin may be a list of addresses. The last address of the list has connected to the site.
		if text = text[strings.LastIndexByte(text, ',')+1:]; parseAddress(text).IsValid() {
			return text
		}
	}
	return ""
}

// parseAddress parses an address without a zone. An invalid text leads to an invalid address.
func parseAddress(text string) netip.Addr {
	a, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil || a.Zone() != "" {
		return netip.Addr{}
	}
	return a
}
