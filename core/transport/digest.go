package transport

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/icholy/digest"

	"github.com/whirlpool-proxy/whirlpool/core/http1"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// digestState is the state of Digest authentication (RFC 7616) with one proxy. It is empty until the proxy has asked
// for Digest. Until then, requests carry Basic credentials, unless the proxy is configured with upstream.AuthDigest.
type digestState struct {
	challengedBefore atomic.Bool // the proxy has asked for Digest
	// digestOnly is set when the proxy has accepted Digest credentials after a challenge that offered Digest and not
	// Basic. From then on the proxy gets no Basic credentials.
	digestOnly atomic.Bool

	mu     sync.Mutex // guards nonces
	nonces []*nonce   // the most recently used is the last
}

// A nonce holds a challenge of the proxy, and the number of requests so far that used the nonce of this challenge. Each
// of these requests contains its own number (nc). A proxy such as squid may refuse a request whose nc is not larger
// than the nc of the previous request. Therefore only one request uses a nonce at a time.
type nonce struct {
	challenge  *digest.Challenge
	digestOnly bool // the 407 with this challenge had no challenge for Basic
	count      int
}

// maxNonces is the maximum number of nonces that are kept for one proxy.
const maxNonces = 64

// takeNonce returns a nonce for one request. If there is no nonce, it returns nil. The request is then sent without
// credentials, and the proxy responds with a challenge.
func (d *digestState) takeNonce() *nonce {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.nonces)
	if n == 0 {
		return nil
	}
	last := d.nonces[n-1]
	d.nonces = d.nonces[:n-1]
	return last
}

// giveBackNonce stores a nonce for later requests: a new nonce, or a nonce from takeNonce that the proxy has accepted.
// If n is nil, nothing happens.
func (d *digestState) giveBackNonce(n *nonce) {
	if n == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.nonces) < maxNonces {
		d.nonces = append(d.nonces, n)
	}
}

// recordSuccess is called when the proxy has accepted the credentials of a request, with the nonce of these credentials
// (nil for none). A 407 to a request in absolute form may come from a target. Only an accepted nonce shows that the
// proxy has sent the challenge, so digestOnly is set here.
func (d *digestState) recordSuccess(usedNonce *nonce) {
	if usedNonce != nil && usedNonce.digestOnly {
		d.digestOnly.Store(true)
	}
	d.giveBackNonce(usedNonce)
}

// maxChallenged is the maximum number of times that a request is sent to one proxy that responds with
// challenges.
const maxChallenged = 5

// mayResend reports whether a request may be sent once more to a proxy that has responded with a challenge each time. n
// is the nonce of the last send; nil if other requests used all nonces. A challenge to the first request with a nonce
// means that the password is wrong. A challenge to a later request means that the nonce is too old.
func (n *nonce) mayResend(sends int) bool {
	return sends == 1 || sends < maxChallenged && (n == nil || n.count > 1)
}

// authorization returns the value of Proxy-Authorization for a request with the nonce.
func (n *nonce) authorization(a upstream.Address, method, target string) []byte {
	n.count++
	credentials, err := digest.Digest(n.challenge, digest.Options{
		Method: method, URI: target, Count: n.count, Username: a.Username, Password: a.Password.Reveal(),
	})
	if err != nil { // not possible: bestChallenge returns only supported challenges
		return nil
	}
	return []byte(credentials.String())
}

// usesDigest reports whether the proxy gets Digest credentials only.
func (d *digestState) usesDigest(s *upstream.Spec) bool {
	return d.challengedBefore.Load() || s.DigestOnly()
}

// authorize returns the value of Proxy-Authorization for a request to a proxy with the spec s, and the nonce in this
// value. The parameter a is the proxy's address, with values in place of templates. If the proxy gets only Digest
// credentials (usesDigest), the value is empty while other requests use all nonces. Any other proxy gets Basic
// credentials. The caller passes the nonce to shouldResend or recordSuccess.
func (d *digestState) authorize(s *upstream.Spec, a upstream.Address, method, target string) ([]byte, *nonce) {
	basic := basicAuth(a)
	if !d.usesDigest(s) || basic == nil {
		return basic, nil
	}
	n := d.takeNonce()
	if n == nil {
		return nil, nil
	}
	return n.authorization(a, method, target), n
}

// shouldResend records the challenges of a 407, and reports whether the request should be sent once more to the same
// proxy, with other credentials. The caller passes the nonce of the request's credentials; nil for none.
func (d *digestState) shouldResend(s *upstream.Spec, fields []http1.Field, usedNonce *nonce) (resend bool) {
	best := bestChallenge(fields)
	switch {
	case best != nil:
	case d.digestOnly.Load() || s.DigestOnly():
		return false
	default: // no Digest challenge: if the proxy has asked for Digest before, Basic is tried again
		return d.challengedBefore.CompareAndSwap(true, false)
	}
	basic := slices.ContainsFunc(offeredSchemes(fields), func(s string) bool { return strings.EqualFold(s, "basic") })
	d.challengedBefore.Store(true)
	d.giveBackNonce(&nonce{challenge: best, digestOnly: !basic})
	return usedNonce == nil || usedNonce.challenge.Nonce != best.Nonce
}

// authorize sets the credentials of the request q on the connection pc. It returns the nonce in these credentials; nil
// for none.
func (p *idlePool) authorize(u *upstream.Upstream, pc *persistConn, q *Request) (usedNonce *nonce) {
	s := u.Spec()
	if pc.toTarget || q.isTrace() || !p.digest.usesDigest(s) && (p.credentials == "" && pc.filledAddress == nil ||
		strings.HasPrefix(pc.credentials, "Basic ")) {
		return nil // pc.credentials needs no change, or is not sent (isTrace)
	}
	a := pc.filledAddress
	if a == nil {
		a = &s.Address
	}
	credentials, usedNonce := p.digest.authorize(s, *a, string(q.Method), string(q.Target))
	pc.credentials = string(credentials)
	return usedNonce
}

// shouldResend is called with the head of each response, except the response to a TRACE. It reports whether the request
// should be sent once more to the same proxy, with other credentials. The caller passes the nonce of the request's
// credentials; nil for none.
func (r *Response) shouldResend(s *upstream.Spec, usedNonce *nonce) (resend bool) {
	if r.Status != http.StatusProxyAuthRequired || !r.FromProxy {
		r.pool.digest.recordSuccess(usedNonce)
		return false
	}
	// Without configured credentials, the request cannot be sent again with other credentials.
	return (r.pool.credentials != "" || r.pc.filledAddress != nil) && r.pool.digest.shouldResend(s, r.Fields, usedNonce)
}

// digestAlgorithms lists the algorithms of Digest, the best first. The algorithm "" is MD5 (RFC 7616 section 3.3).
var digestAlgorithms = []string{"SHA-512-256", "SHA-256", "MD5", ""}

// bestChallenge returns the Digest challenge with the best algorithm that the gateway supports; nil if there is none.
func bestChallenge(fields []http1.Field) (best *digest.Challenge) {
	for i := range fields {
		if fields[i].Kind != http1.ProxyAuthenticate {
			continue
		}
		for _, text := range splitChallenges(string(fields[i].Value)) {
			c, err := digest.ParseChallenge(text)
			if err != nil || c.Nonce == "" {
				continue
			}
			for i := range c.QOP {
				c.QOP[i] = strings.ToLower(strings.TrimSpace(c.QOP[i]))
			}
			rank := slices.Index(digestAlgorithms, strings.ToUpper(c.Algorithm))
			if rank < 0 || len(c.QOP) > 0 && !c.SupportsQOP("auth") {
				continue
			}
			if best == nil || rank < slices.Index(digestAlgorithms, strings.ToUpper(best.Algorithm)) {
				best = c
			}
		}
	}
	return best
}
