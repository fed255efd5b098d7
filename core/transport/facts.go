package transport

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// Facts are observations that show whether the proxy or the target wrote a response.
type Facts struct {
	// FromProxy is set if the response came on the connection of an HTTP or HTTPS proxy, to a request in absolute
	// form or to a CONNECT. The fields below are set only if FromProxy is set and the status is 400 or above.
	FromProxy bool
	// ErrorPage is set if the response has a signature of a proxy's own error page. The response to a CONNECT is always
	// the proxy's own, but its ErrorPage is nil if it has no known signature.
	ErrorPage *ErrorPage
	// InnerOutcome is the value of X-Whirlpool-Outcome (a core.Final) if the proxy is itself a Whirlpool;
	// otherwise "".
	InnerOutcome string
	// NoTunnels is set if the status of the response to a CONNECT means that the proxy opens no
	// tunnels at all: 405 or 501.
	NoTunnels bool
	// NoCredentials is set for a 407 to a TRACE. A TRACE has no credentials, so the 407 shows nothing about the proxy.
	NoCredentials bool
	// AuthSchemes are the authentication schemes in the Proxy-Authenticate fields of a 407, at most 8. The slice is nil
	// without such a field, and empty if the fields name no scheme.
	AuthSchemes []string
	// DigestOnly is set together with AuthSchemes, if the proxy must not get Basic credentials (upstream.AuthDigest).
	DigestOnly bool
	// ChallengeHash is a hash of the schemes and realms of the Proxy-Authenticate fields of a 407; 0 without such a
	// field.
	ChallengeHash uint64
}

// innerOutcome returns the value of X-Whirlpool-Outcome. It returns "" if the field is missing, occurs
// several times, or has an unknown value.
func innerOutcome(fields []http1.Field) (inner string) {
	seen := false
	for i := range fields {
		f := &fields[i]
		if f.Kind != http1.Whirlpool || !http1.EqualFold(f.Name, "x-whirlpool-outcome") {
			continue
		}
		if seen {
			return ""
		}
		seen = true
		for final := core.FinalSuccess; final <= core.LastFinal; final++ {
			if string(f.Value) == final.String() {
				inner = final.String()
			}
		}
	}
	return inner
}

// The limits of peekBody: the number of bytes of the body that are compared with rules, and the longest wait for
// these bytes.
const (
	maxPage  = 8 << 10
	pageWait = 100 * time.Millisecond
)

// setFacts sets the facts of a response whose head has just arrived.
func (r *Response) setFacts(c *Control, q *Request, u *upstream.Upstream) {
	pc := r.pc
	if pc.toTarget {
		return
	}
	r.FromProxy = true
	if r.Status == http.StatusSwitchingProtocols {
		return
	}
	if r.Status < 400 {
		r.pool.viaRecord.add(r.Fields, q.Authority)
		return
	}
	r.InnerOutcome = innerOutcome(r.Fields)
	if r.Status == 407 && q.isTrace() {
		r.NoCredentials = true
		return
	}
	if r.Status == 407 {
		r.AuthSchemes, r.ChallengeHash = offeredSchemes(r.Fields), identifyChallenge(r.Fields)
		r.DigestOnly = u.Spec().DigestOnly()
	}
	p := page{status: r.Status, reason: r.Reason, fields: r.Fields}
	rules := u.Spec().ErrorRules()
	r.peekBody(c, rules, &p)
	via := viaState(r.pool.viaRecord.state.Load())
	if r.ErrorPage = findErrorPage(&p, rules, via); r.ErrorPage == nil && p.viaCount == 0 &&
		(via.isConsistent() && r.t.hasUniqueVia(r.pool) || via == 0 && !u.Literal() && r.t.othersAddVia(r.pool)) {
		r.ErrorPage = &ErrorPage{Signature: "no via", Kind: verdict.ErrorPageUnclear}
	}
}

// peekBody sets p.body to the bytes of the body that have arrived, without consuming them. If the framing is chunked,
// p.body includes the chunk sizes. peekBody waits for more bytes only if a rule depends on the body.
func (r *Response) peekBody(c *Control, rules []upstream.OwnError, p *page) {
	if r.Framing == http1.NoBody {
		return
	}
	reader := &r.pc.reader
	p.body = reader.Buffered()[:min(len(reader.Buffered()), maxPage)]
	needed := false
	for i := range rules {
		needed = needed || rules[i].Body != "" && ruleMatchesHead(&rules[i], p)
	}
	if !needed {
		return
	}
	maxBytes := maxPage
	if r.Framing == http1.Length {
		maxBytes = int(min(r.Length, maxPage))
	}
	until := r.t.cfg.Now().Add(pageWait)
	if c.Deadline.Before(until) {
		until = c.Deadline
	}
	r.pc.setReadDeadline(c, until)
	for {
		have := reader.Buffered()
		whole := len(have) >= maxBytes || r.Framing == http1.Chunked && bytes.HasSuffix(have, []byte("0\r\n\r\n"))
		p.body = have[:min(len(have), maxBytes)]
		if whole || slices.ContainsFunc(rules, func(rule upstream.OwnError) bool { return ruleMatches(&rule, p) }) {
			break
		}
		if err := reader.ReadAhead(); err != nil {
			// The error is recorded, because a later read would not return it again.
			if err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
				r.Body.RecordRead(0, err)
			}
			break
		}
		if len(reader.Buffered()) == len(have) {
			break // the buffer is full
		}
	}
	r.pc.setReadDeadline(c, c.Deadline)
	have := reader.Buffered()
	p.body = have[:min(len(have), maxBytes)]
}

// setFacts sets the facts of a refused CONNECT.
func (r *RefusedConnect) setFacts(u *upstream.Upstream) {
	r.FromProxy = true
	if r.Status < 400 {
		return
	}
	r.InnerOutcome = innerOutcome(r.Fields)
	if r.Status == 407 {
		r.AuthSchemes, r.DigestOnly = offeredSchemes(r.Fields), u.Spec().DigestOnly()
	}
	r.NoTunnels = u.LearnsAbilities() && ability.IsUnsupported(r.Status)
	p := page{status: r.Status, reason: []byte(r.Reason), fields: r.Fields, body: r.Body[:min(len(r.Body), maxPage)],
		isConnect: true}
	r.ErrorPage = findErrorPage(&p, u.Spec().ErrorRules(), 0)
}

// AddFacts adds the facts of the response to f.
func (r *Response) AddFacts(f *verdict.Facts) {
	f.Status = r.Status
	if r.RetryAfter != nil {
		f.RetryAfter = string(r.RetryAfter)
	}
	r.Facts.addTo(f)
}

// AddFacts adds the facts of a refused CONNECT to f.
func (r *RefusedConnect) AddFacts(f *verdict.Facts) {
	f.Status, f.RetryAfter, f.Tunnel = r.Status, r.RetryAfter, true
	r.Facts.addTo(f)
}

// addTo copies the facts of f to the fields of a verdict.Facts with the same meaning.
func (f *Facts) addTo(to *verdict.Facts) {
	to.FromProxy, to.InnerOutcome, to.HasChallenge = f.FromProxy, f.InnerOutcome, f.AuthSchemes != nil
	to.Challenge, to.NoTunnels, to.NoCredentials = f.ChallengeHash, f.NoTunnels, f.NoCredentials
	if f.AuthSchemes != nil {
		to.OfferedSchemes = unsupportedSchemes(f.AuthSchemes, f.DigestOnly)
	}
	if f.ErrorPage != nil {
		to.ErrorPage, to.ErrorPageReason = f.ErrorPage.Kind, f.ErrorPage.Reason
	}
}
