package transport

import (
	"sync/atomic"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// tokenOffers decides whether a SOCKS5 proxy is offered loop tokens (package loop, socks5.Tokens). A proxy chooses
// one of the methods that it is offered (RFC 1928 section 3), so only a Whirlpool chooses to receive tokens. Some
// proxies refuse every greeting that has an unknown method. Such a proxy is offered no tokens. A tokenOffers is safe
// for concurrent use.
type tokenOffers struct{ state atomic.Int32 }

// The states of tokenOffers.
const (
	offersUntested int32 = iota // tokens are offered
	offersAccepted              // tokens are offered: a handshake with an offer has succeeded
	offersDoubted               // tokens are not offered: a handshake with an offer has failed
	offersRefused               // tokens are not offered: after offersDoubted, a handshake without an offer succeeded
)

type tokenOffer struct {
	tokens   []byte // nil for no offer
	accepted bool   // the proxy has chosen to receive the tokens
}

// offeredTokens returns the loop tokens to offer to the SOCKS proxy u. It returns nil if the proxy is offered none.
func (t *Transport) offeredTokens(u *upstream.Upstream, scheme string, c *Control) []byte {
	if !t.cfg.Loop.SendsTokens() || scheme != upstream.SOCKS5 && scheme != upstream.SOCKS5H ||
		t.pool(u).tokenOffers.state.Load() > offersAccepted {
		return nil
	}
	return t.cfg.Loop.Append(nil, c.LoopTokens)
}

// recordHandshake records the result of a SOCKS handshake, with or without an offer of tokens. The parameter verr is
// the error of the handshake; nil if it succeeded.
func (o *tokenOffers) recordHandshake(offer *tokenOffer, verr *verdict.Error) {
	ok := offer.accepted || verr == nil
	if verr != nil {
		switch verr.Cause { // the proxy has replied to the request
		case verdict.TunnelFailed, verdict.TunnelRefused, verdict.TargetUnreachable:
			ok = true
		}
	}
	switch offered := offer.tokens != nil; {
	case offered && ok:
		o.state.Store(offersAccepted)
	case offered:
		o.state.CompareAndSwap(offersUntested, offersDoubted)
	case ok:
		o.state.CompareAndSwap(offersDoubted, offersRefused)
	default:
		o.state.CompareAndSwap(offersDoubted, offersUntested)
	}
}
