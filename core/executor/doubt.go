package executor

import (
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// doubt is a failed attempt of which nobody knows yet whose fault it was: an
// origin that answers 503 does so through every proxy. With
// Tuning.SecondOpinion it is held against its proxy only if another does not
// bring the same for this request, or no other is asked.
type doubt struct {
	held    upstream.Lease // its place is free already
	outcome core.Outcome
	sign    int
}

// anyRefusal is the sign of a CONNECT refused with a 5xx: of a target that
// cannot be reached each proxy says so with a status of its own.
const anyRefusal = 1

// sign is what another proxy would bring too if it were the target's fault: a
// status, or anyRefusal; 0 if it is certain whose fault it was.
func sign(f *retry.Attempted, o *core.Outcome) int {
	switch {
	case o.Verdict != core.Failure:
		return 0
	case f.Fault != nil && f.Fault.Status >= 500, f.Connect && o.Status >= 500:
		return anyRefusal
	case f.Fault == nil && o.Status >= 500:
		return o.Status
	}
	return 0
}

// opine settles the doubt there is, if this attempt says something about it,
// and reports whether the attempt itself is in doubt. One that brought the same
// as another proxy's is excluded.
func (x *Exchange) opine(f *retry.Attempted, o *core.Outcome) (doubtful bool) {
	s, d := sign(f, o), &x.doubt
	switch {
	case d.held.U == nil:
	case s == d.sign && d.held.U != x.Proxy:
		d.outcome.Verdict = core.Excluded
		x.settleDoubt()
		x.targets = s
	case s != d.sign && f.Fault == nil && o.Again != core.Elsewhere: // the target did better
		x.settleDoubt()
	}
	if s != 0 && s == x.targets {
		o.Verdict = core.Excluded
		return false
	}
	return s != 0 && d.held.U == nil
}

// settleDoubt tells the proxy in doubt what is known by now.
func (x *Exchange) settleDoubt() {
	if d := &x.doubt; d.held.U != nil {
		d.held.Settle(&d.outcome)
		d.held.Release()
		*d = doubt{}
	}
}
