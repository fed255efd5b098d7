package upstream

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/evidence"
)

// challengingTarget is a target at which the proxy has got a 407 with a challenge.
type challengingTarget struct {
	target     uint64        // hash
	at         time.Duration // of the latest 407 (Pool.Elapsed)
	hasSeveral bool          // such a 407 has come at several targets, without a success in between
}

// ChallengedByTarget reports whether a 407 to a request in absolute form probably comes from the target and not from
// the proxy (docs/decisions/challenges.md). The parameter challenge is a hash of the challenge; at is the current
// time (Pool.Elapsed).
func (u *Upstream) ChallengedByTarget(t evidence.Target, challenge uint64, at time.Duration) bool {
	if u.pool.literal.Load() {
		return false
	}
	now := &challengingTarget{target: t.Hash, at: at}
	if last := u.ensureAttemptFields().lastChallenge.Load(); last != nil && !u.ServedSince(last.at) {
		now.hasSeveral = last.hasSeveral || last.target != t.Hash
	}
	u.ensureAttemptFields().lastChallenge.Store(now)
	same := u.pool.ledger.RecordChallenge(t, u.Hash(), challenge, u.HasServed() && !now.hasSeveral, at)
	return !now.hasSeveral && (same == evidence.ChallengeFromSeveral ||
		same == evidence.ChallengeFromOne && len(u.pool.Snapshot().All) == 1)
}
