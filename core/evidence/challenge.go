package evidence

import "time"

// ChallengeOrigin states whether a challenge of a target has come through one proxy or through several.
type ChallengeOrigin uint8

// The values of ChallengeOrigin.
const (
	ChallengeUnclear     ChallengeOrigin = iota // the proxies may have made the challenges themselves
	ChallengeFromOne                            // so far only through one proxy, which has served requests
	ChallengeFromSeveral                        // through several proxies, of which one has served requests
)

// challenge is a challenge that has come from a target, or from a proxy on the way to it.
type challenge struct {
	id             uint64 // schemes and realms
	proxy          uint64 // hash of the first proxy
	severalProxies bool
	provenProxy    bool // a proxy that has served requests has relayed it
}

// RecordChallenge records that a 407 with the challenge id came through the given proxy. A proxy that has served
// requests is proven. RecordChallenge returns ChallengeUnclear if no proven proxy has relayed the challenge, or if an
// attempt has succeeded at the target.
func (l *Ledger) RecordChallenge(key Target, proxy, id uint64, proven bool, when time.Duration) ChallengeOrigin {
	t := l.findOrAdd(key)
	t.lastFailure.Store(int64(when)) // so that Sweep keeps the entry
	if t.servedBefore || t.lastSuccess.Load() != neverTime {
		return ChallengeUnclear
	}
	t.mu.Lock()
	c := &t.challenge
	if c.id != id {
		*c = challenge{id: id, proxy: proxy}
	}
	c.severalProxies = c.severalProxies || c.proxy != proxy
	c.provenProxy = c.provenProxy || proven
	now := *c
	t.mu.Unlock()
	switch {
	case !now.provenProxy:
		return ChallengeUnclear
	case !now.severalProxies:
		return ChallengeFromOne
	}
	t.updateProvisional(&Attempt{Ended: when}, Finding{TargetFails: true}) // withdraws failures of the first proxy
	return ChallengeFromSeveral
}
