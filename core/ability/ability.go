// Package ability holds the known abilities of the proxies of a pool. An HTTP proxy does two things: it
// forwards requests in absolute form (RFC 9112 section 3.2.2), and it opens tunnels (CONNECT, RFC 9110
// section 9.3.6). Some proxies do only one of them, and many open tunnels to port 443 only.
//
// Abilities are learnt mostly from the requests of clients. An error response alone shows nothing, because a
// target may send the same response. The rules are:
//
//   - A proxy that has relayed a response below 400, or opened a tunnel, has that ability.
//   - A proxy cannot forward if it responds with 405 or 501 to a GET or HEAD, and one of these observations shows
//     that the target is not the cause: the same request gets another status through a tunnel of the same proxy; the
//     same request gets a status below 400 through another proxy afterwards; or the proxy has responded in this way
//     for several targets, and in no other way since its last success. A status of 400, 403 or 404 is compared only
//     after it has come for several targets, or once for a proxy that is known to open tunnels.
//   - A proxy cannot open tunnels if it responds with 405 or 501 to a CONNECT, and another proxy then opens a
//     tunnel to the same target. If the proxy responds with 403, such a refusal and the tunnel of another proxy must
//     occur for several targets of the same kind of port, or four times for one target. A 403 shows nothing about a
//     proxy that has opened a tunnel before.
//
// The finding that a proxy lacks an ability ends after a time, so that the proxy is tried again. Abilities
// are only a preference: if no proxy has the ability that a request needs, all proxies are used.
package ability

import (
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is an ability.
type Kind uint8

// The abilities.
const (
	Forward     Kind = iota // forward requests in absolute form
	TunnelTLS               // open tunnels to port 443
	TunnelOther             // open tunnels to other ports
	numKinds
)

// TunnelTo returns the kind of a tunnel to authority (host:port).
func TunnelTo(authority string) Kind {
	if strings.HasSuffix(authority, ":443") {
		return TunnelTLS
	}
	return TunnelOther
}

// State is the known state of an ability: the proxy has it, the proxy lacks it, or neither is known.
type State uint8

// The states.
const (
	Unknown State = iota
	Can
	Cannot
)

// String returns the name used in the API.
func (s State) String() string { return [...]string{"unknown", "yes", "no"}[s] }

// Source is the origin of a State.
type Source uint8

// The sources.
const (
	Traffic Source = iota // requests of clients
	Check                 // a health check
)

// String returns the name used in the API.
func (s Source) String() string { return [...]string{"traffic", "check"}[s] }

// Need is the ability that a request requires of a proxy.
type Need uint8

// The needs. A proxy that does not forward can serve a request in absolute form, too: through a tunnel to the request's
// target.
const (
	NeedForward    Need = iota // absolute form, and the target's port is not 443
	NeedForward443             // absolute form, and the target's port is 443
	NeedTunnel                 // a tunnel to a port other than 443
	NeedTunnel443              // a tunnel to port 443
)

// NeedOf returns the need of a request for authority (host:port). The parameter tunnel is set if the request can only
// be sent through a tunnel: a CONNECT, or a request for an https:// URL.
func NeedOf(tunnel bool, authority string) Need {
	tls := TunnelTo(authority) == TunnelTLS
	switch {
	case tunnel && tls:
		return NeedTunnel443
	case tunnel:
		return NeedTunnel
	case tls:
		return NeedForward443
	}
	return NeedForward
}

// The rules of learning.
const (
	severalTargets = 3                // number of different targets whose refusals suffice as evidence
	manyRefusals   = 4                // number of refused CONNECTs in a row to one target that suffice as evidence
	provenStrikes  = 8                // refusals in a row after which an ability with successes is unknown again
	firstForget    = 10 * time.Minute // duration of the first Cannot
	longestForget  = 2 * time.Hour    // maximum duration of a Cannot; each lasts twice as long as the previous one
	retestPause    = 30 * time.Second // minimum time between two tests whether a proxy can forward again
	comparePause   = time.Minute      // minimum time between a comparison without a conclusion and the next one
)

// Forever is the end of a Cannot that never ends.
const Forever = time.Duration(1<<63 - 1)

// The values of a word in Set.words. Every larger value stands for Cannot, and is the time at which the
// Cannot ends (ns after the epoch of the pool).
const (
	unknown   = iota
	can       // has succeeded, and has not been refused since
	canStruck // has succeeded, and has been refused since
	suspected // only for Forward: methods other than GET and HEAD were refused for several targets
	cannotMin
)

// Set holds the abilities of one proxy. In the zero Set all abilities are unknown. It is safe for concurrent use. All
// times in it are durations since the pool's epoch (upstream.Pool.Elapsed).
type Set struct {
	words   [numKinds]atomic.Int64
	limited *atomic.Bool // set when an ability is found to be missing; may be nil
	mu      sync.Mutex   // guards observed, and changes of words to and from Cannot
	// observed is nil before the first observation, because a long list has many proxies without one.
	observed *observations
}

// observations are the observations behind the states.
type observations struct {
	records [numKinds]record
	same    same
}

// observations returns the observations. If there are none, it creates them. The caller holds mu.
func (s *Set) observations() *observations {
	if s.observed == nil {
		s.observed = &observations{}
	}
	return s.observed
}

// record holds the observations behind the state of an ability.
type record struct {
	since    time.Duration          // when the state began
	pause    time.Duration          // no comparison before this time: the last one got no response through the tunnel
	targets  [severalTargets]uint64 // the different targets of the refusals in a row
	strikes  int32                  // refusals in a row
	status   int16                  // status of the refusals; 405 also stands for 501
	distinct uint8                  // number of entries in targets
	learnt   uint8                  // number of times that Cannot was learnt since the last success
	source   Source
	compared bool // Strike has asked for a comparison since the last success
}

// same holds the targets whose responses were the same with and without a tunnel in the latest comparisons.
// They are not compared again for comparePause.
type same struct {
	targets [severalTargets]uint64
	until   [severalTargets]time.Duration
	next    uint8 // the entry that is replaced next
}

func (s *same) add(target uint64, until time.Duration) {
	s.targets[s.next], s.until[s.next] = target, until
	s.next = (s.next + 1) % severalTargets
}

func (s *same) has(target uint64, at time.Duration) bool {
	for i := range s.targets {
		if s.targets[i] == target && at < s.until[i] {
			return true
		}
	}
	return false
}

// NotifyLimits gives the Set a flag. The Set sets this flag to true when it learns that the proxy lacks an ability.
// NotifyLimits must be called before the Set is used.
func (s *Set) NotifyLimits(limited *atomic.Bool) { s.limited = limited }

// State returns the state of an ability. The parameter at is the current time.
func (s *Set) State(k Kind, at time.Duration) State {
	switch w := s.words[k].Load(); {
	case w == can, w == canStruck:
		return Can
	case w >= cannotMin && at < time.Duration(w):
		return Cannot
	}
	return Unknown
}

// Meets reports whether the proxy can serve a request with the need n. It returns true if the ability is
// unknown.
func (s *Set) Meets(n Need, at time.Duration) bool {
	tunnel := TunnelOther
	if n == NeedForward443 || n == NeedTunnel443 {
		tunnel = TunnelTLS
	}
	if s.State(tunnel, at) != Cannot {
		return true
	}
	return (n == NeedForward || n == NeedForward443) && s.State(Forward, at) != Cannot
}

// Succeeded records that the proxy has relayed a response below 400, or opened a tunnel. It costs one atomic
// load if the ability is known already.
func (s *Set) Succeeded(k Kind, at time.Duration, from Source) {
	if s.words[k].Load() == can {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.observations().records[k]
	if w := s.words[k].Swap(can); w != can && w != canStruck {
		r.since, r.source = at, from
	}
	*r = record{since: r.since, source: r.source}
}

// Learn records that the proxy lacks an ability. The parameter at is the current time, and until is the time at which
// the finding ends. If until is 0, the finding lasts longer with each call of Learn since the last success.
func (s *Set) Learn(k Kind, at, until time.Duration, from Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learn(k, at, until, from)
}

// learn implements Learn. The caller holds mu.
func (s *Set) learn(k Kind, at, until time.Duration, from Source) {
	r := &s.observations().records[k]
	if until == 0 {
		until = at + min(firstForget<<min(r.learnt, 8), longestForget)
	}
	if w := s.words[k].Swap(int64(max(until, cannotMin))); w < cannotMin {
		r.since, r.source = at, from
	}
	if r.source = from; r.learnt < math.MaxUint8 {
		r.learnt++
	}
	if s.limited != nil {
		s.limited.Store(true)
	}
}

// Forget sets all abilities to unknown.
func (s *Set) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.words {
		s.words[k].Store(unknown)
	}
	s.observed = nil
}

// ByTunnel reports whether a request that could be sent in absolute form is to be sent through a tunnel. The parameter
// comparable is set if the request is a GET or HEAD without a body. When Cannot has ended, one comparable request is
// sent in absolute form, to test whether the proxy can forward again; all other requests are still sent through a
// tunnel.
func (s *Set) ByTunnel(at time.Duration, comparable bool) bool {
	w := s.words[Forward].Load()
	switch {
	case w < suspected:
		return false
	case w == suspected:
		return !comparable
	case at < time.Duration(w) || !comparable:
		return true
	}
	return !s.words[Forward].CompareAndSwap(w, int64(at+retestPause))
}

// Strike records a response of 400 or above to a request in absolute form. The response may come from the
// proxy or from the target. The parameter comparable is as in ByTunnel. Strike returns true if the caller should send
// the same request through a tunnel of the proxy, compare the two responses, and call Compared.
func (s *Set) Strike(target uint64, status int, comparable bool, at time.Duration) (compare bool) {
	unsupported := Unsupported(status)
	switch w := s.words[Forward].Load(); {
	case !unsupported && status != 400 && status != 403 && status != 404:
		return false
	case !unsupported && (w == can || w == canStruck || !comparable):
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.observations().records[Forward]
	r.strike(target, status)
	switch w := s.words[Forward].Load(); {
	case w == can, w == canStruck:
		s.words[Forward].Store(canStruck)
		if r.strikes < provenStrikes || r.distinct < severalTargets {
			return false
		}
		s.words[Forward].Store(unknown)
		r.since = at
	case w >= cannotMin: // this request was a test whether the proxy can forward again
		return comparable
	case !comparable && r.distinct >= severalTargets:
		s.words[Forward].Store(suspected)
	}
	// A comparison costs a request. The first comparison is made at the first refusal if the proxy is known to open
	// tunnels and has not forwarded anything yet.
	first := !r.compared && (s.State(TunnelTLS, at) == Can || s.State(TunnelOther, at) == Can)
	compare = comparable && (unsupported || r.distinct >= severalTargets || first) && at >= r.pause &&
		!s.observations().same.has(target, at)
	r.compared = r.compared || compare
	return compare
}

// strike counts a refusal. Refusals with different statuses are not counted together, because they are
// probably responses of targets.
func (r *record) strike(target uint64, status int) {
	if Unsupported(status) {
		status = 405
	}
	if int(r.status) != status {
		r.clear()
		r.status = int16(status)
	}
	r.strikes = min(r.strikes+1, math.MaxInt32-1)
	if slices.Contains(r.targets[:r.distinct], target) {
		return
	}
	if r.distinct < severalTargets {
		r.targets[r.distinct] = target
		r.distinct++
	}
}

// clear removes the refusals.
func (r *record) clear() { r.targets, r.distinct, r.strikes = [severalTargets]uint64{}, 0, 0 }

// Compared records the result of a comparison that Strike asked for. The parameter first is the status of the response
// to the request in absolute form, and second is the status of the response through the tunnel, or 0 if there was none.
// Compared returns true if the first response was the proxy's own.
func (s *Set) Compared(target uint64, first, second int, at time.Duration) (proxys bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.observations().records[Forward]
	switch {
	case second != 0 && (second < 400 || Unsupported(first) && second != first):
		s.learn(Forward, at, 0, Traffic)
		return true
	case second == 0 && Unsupported(first) && r.distinct >= severalTargets:
		s.learn(Forward, at, 0, Traffic) // refused for several targets, and no other response since the last success
	case s.words[Forward].Load() >= cannotMin: // the test gave no conclusion
	case second != 0: // the target sends the same response
		r.clear()
		s.observations().same.add(target, at+comparePause)
	default:
		r.pause = at + comparePause
	}
	return false
}

// RefusedForward records that the proxy has refused a tunnel for a request that could be sent in absolute
// form, and then refused to forward it.
func (s *Set) RefusedForward(k Kind, target uint64, at time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.words[Forward].Load() < cannotMin {
		return
	}
	r := &s.observations().records[k]
	r.strike(target, 403)
	if r.strikes >= 2 {
		s.learn(k, at, 0, Traffic)
	}
}

// refused records a refusal by the proxy itself: another proxy has served the same request afterwards.
func (s *Set) refused(k Kind, target uint64, status int, at time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kinds := []Kind{k}
	if k != Forward && Unsupported(status) { // the method CONNECT is unsupported for all ports
		kinds = []Kind{TunnelTLS, TunnelOther}
	}
	needed := uint8(severalTargets)
	for _, kind := range kinds {
		r := &s.observations().records[kind]
		r.strike(target, status)
		switch w := s.words[kind].Load(); {
		case w == can || w == canStruck:
			if !Unsupported(status) || r.strikes < provenStrikes {
				if w == can {
					s.words[kind].Store(canStruck)
				}
				continue
			}
			needed = 1
		case Unsupported(status) || r.learnt > 0:
			needed = 1
		}
		if r.distinct >= needed || r.strikes >= manyRefusals && k != Forward {
			s.learn(kind, at, 0, Traffic)
		}
	}
}

// Unsupported reports whether a status means that a method is not supported: 405 or 501 (RFC 9110
// sections 15.5.6 and 15.6.2).
func Unsupported(status int) bool { return status == 405 || status == 501 }

// View is the state of an ability, for display.
type View struct {
	State  State
	Source Source
	Since  time.Duration // when the state began; 0 if the state is unknown
	Until  time.Duration // when the proxy is tried again; only if the state is Cannot
}

// View returns the state of an ability for display.
func (s *Set) View(k Kind, at time.Duration) View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := View{State: s.State(k, at)}
	if v.State == Unknown {
		return v
	}
	r := &s.observations().records[k]
	v.Source, v.Since = r.source, r.since
	if v.State == Cannot {
		v.Until = time.Duration(s.words[k].Load())
	}
	return v
}
