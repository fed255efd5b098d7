// Package ability holds the known abilities of the proxies of a pool. An HTTP proxy does two things: it forwards
// requests in absolute form (RFC 9112 section 3.2.2), and it opens tunnels (CONNECT, RFC 9110 section 9.3.6). Some
// proxies do only one of them, and many open tunnels to port 443 only.
//
// Abilities are learnt mostly from the requests of clients. An error response alone shows nothing, because a target may
// send the same response. The rules are:
//
//   - A proxy can forward if it has relayed a response below 400. It can open tunnels if it has opened one to the same
//     kind of port.
//   - A proxy cannot forward if it responds with 405 or 501 to a GET or HEAD, and one of three observations shows
//     that the target is not the cause: the same request gets another status through a tunnel of the same proxy; or
//     the same request gets a status below 400 through another proxy afterwards; or the proxy has responded in this
//     way for several targets, and in no other way since its last success.
//   - After a response with 400, 403 or 404, the same request is sent through a tunnel for comparison only if the
//     proxy has responded in this way for several targets. If the proxy has forwarded before, eight such responses
//     in a row are needed as well. If the proxy has not forwarded before, but is known to open tunnels, one
//     comparison is made at its first refusal.
//   - A proxy cannot open tunnels if it responds with 405 or 501 to a CONNECT, and another proxy then opens a
//     tunnel to the same target. With status 403, this must happen for several targets of the same kind of port, or
//     four times for one target. A 403 shows nothing about a proxy that has opened a tunnel before.
//
// The finding that a proxy lacks an ability ends after a time, so that the proxy is tried again. Abilities are only a
// preference: if no proxy has the ability that a request needs, all proxies are used.
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

// TunnelTo returns the ability that a tunnel to authority (host:port) requires.
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

// String returns the name of the state in the API.
func (s State) String() string { return [...]string{"unknown", "yes", "no"}[s] }

// Source is the origin of a State.
type Source uint8

// The sources.
const (
	Traffic Source = iota // requests of clients
	Check                 // a health check
)

// String returns the name of the source in the API.
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

// NeedOf returns the need of a request for authority (host:port). If tunnel is set, the request can only be sent
// through a tunnel: it is a CONNECT, or a request for an https:// URL.
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
	severalTargets = 3 // number of different targets whose refusals suffice as evidence
	// number of refused CONNECTs in a row to one target that suffice as evidence
	manyRefusals         = 4
	refusalsAfterSuccess = 8                // refusals in a row after which an ability with successes is unknown again
	firstMissingTime     = 10 * time.Minute // duration of the first Cannot
	// maximum duration of the state Cannot, which doubles each time that the ability is found missing
	longestMissingTime = 2 * time.Hour
	retestPause        = 30 * time.Second // minimum time between two tests whether a proxy can forward again
	comparePause       = time.Minute      // minimum time between a comparison without a conclusion and the next one
	// A questionable response is followed by a request through another proxy. If this request gets no status below 400,
	// it has a weight: sharedErrorWeight if both responses have the same status, otherwise 1. When the sum of these
	// weights since the last success reaches enoughErrors, IsQuestionable returns false.
	sharedErrorWeight = 4
	enoughErrors      = 4 * sharedErrorWeight
)

// Forever is the end of a state Cannot that never ends.
const Forever = time.Duration(1<<63 - 1)

// The values in Set.states. A value of at least cannotMin stands for the state Cannot. It is the time at which this
// state ends, in ns after the pool's epoch.
const (
	unknown    = iota
	can        // has succeeded, and has not been refused since
	canRefused // has succeeded, and has been refused since
	suspected  // only for Forward: methods other than GET and HEAD were refused for several targets
	cannotMin
)

// Set holds the abilities of one proxy. In the zero Set all abilities are unknown. It is safe for concurrent use. All
// times in it are durations since the pool's epoch (upstream.Pool.Elapsed).
type Set struct {
	states     [numKinds]atomic.Int64
	anyMissing *atomic.Bool // set when an ability is found to be missing; may be nil
	mu         sync.Mutex   // guards observed, and changes of states to and from Cannot
	// observed is nil before the first observation. This saves memory if the pool has many proxies that are hardly
	// used.
	observed *observations
}

// observations are the observations from which the states of all abilities are derived.
type observations struct {
	records      [numKinds]record
	equalTargets equalTargets
}

// The caller of observations holds mu.
func (s *Set) observations() *observations {
	if s.observed == nil {
		s.observed = &observations{}
	}
	return s.observed
}

// record holds the observations from which the state of one ability is derived.
type record struct {
	since time.Duration // when the state began
	// time before which no comparison is made, because the last one got no response through the tunnel
	nextComparison  time.Duration
	targets         [severalTargets]uint64 // the different targets of the refusals in a row
	refusals        int32                  // refusals in a row
	status          int16                  // status of the refusals; 405 also stands for 501
	targetCount     uint8                  // number of entries in targets
	missingCount    uint8                  // number of times that Cannot was learnt since the last success
	source          Source
	comparisonAsked bool  // RecordRefusal has asked for a comparison since the last success
	errorWeight     uint8 // see enoughErrors
	lostResponse    bool  // see HasLostResponse
}

// equalTargets are the targets that, in the latest comparisons, have refused the request both in absolute form and
// through a tunnel. Until comparePause has passed, the responses of such a target are not compared again.
type equalTargets struct {
	targets [severalTargets]uint64
	until   [severalTargets]time.Duration
	next    uint8 // the entry that is replaced next
}

func (s *equalTargets) add(target uint64, until time.Duration) {
	s.targets[s.next], s.until[s.next] = target, until
	s.next = (s.next + 1) % severalTargets
}

func (s *equalTargets) has(target uint64, now time.Duration) bool {
	for i := range s.targets {
		if s.targets[i] == target && now < s.until[i] {
			return true
		}
	}
	return false
}

// SetMissingFlag makes the Set store true in anyMissing whenever it records that the proxy lacks an ability. It must be
// called before the Set is used.
func (s *Set) SetMissingFlag(anyMissing *atomic.Bool) { s.anyMissing = anyMissing }

// State returns the state of an ability.
func (s *Set) State(k Kind, now time.Duration) State {
	switch w := s.states[k].Load(); {
	case w == can, w == canRefused:
		return Can
	case w >= cannotMin && now < time.Duration(w):
		return Cannot
	}
	return Unknown
}

// CanServe reports whether the proxy can serve a request with the need n. It also returns true if this is not known.
func (s *Set) CanServe(n Need, now time.Duration) bool {
	tunnel := TunnelOther
	if n == NeedForward443 || n == NeedTunnel443 {
		tunnel = TunnelTLS
	}
	if s.State(tunnel, now) != Cannot {
		return true
	}
	return (n == NeedForward || n == NeedForward443) && s.State(Forward, now) != Cannot
}

// RecordSuccess records that the proxy has relayed a response below 400, or opened a tunnel. If the ability is known
// already, the call costs one atomic load.
func (s *Set) RecordSuccess(k Kind, now time.Duration, from Source) {
	if s.states[k].Load() == can {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.observations().records[k]
	if w := s.states[k].Swap(can); w != can && w != canRefused {
		r.since, r.source = now, from
	}
	*r = record{since: r.since, source: r.source}
}

// RecordMissing records that the proxy lacks an ability. The finding ends at the time until. If until is 0, it ends
// after a time that doubles with each finding since the last success.
func (s *Set) RecordMissing(k Kind, now, until time.Duration, from Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recordMissing(k, now, until, from)
}

// The caller of recordMissing holds mu.
func (s *Set) recordMissing(k Kind, now, until time.Duration, from Source) {
	r := &s.observations().records[k]
	if until == 0 {
		until = now + min(firstMissingTime<<min(r.missingCount, 8), longestMissingTime)
	}
	if w := s.states[k].Swap(int64(max(until, cannotMin))); w < cannotMin {
		r.since, r.source = now, from
	}
	if r.source = from; r.missingCount < math.MaxUint8 {
		r.missingCount++
	}
	if s.anyMissing != nil {
		s.anyMissing.Store(true)
	}
}

// Reset sets all abilities to unknown.
func (s *Set) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.states {
		s.states[k].Store(unknown)
	}
	s.observed = nil
}

// UsesTunnel reports whether to send a request through a tunnel although it could be sent in absolute form. The request
// is comparable if it is a GET or HEAD without a body. When a Cannot has ended, one comparable request is sent in
// absolute form, to test whether the proxy can forward again. All other requests still use tunnels.
func (s *Set) UsesTunnel(now time.Duration, comparable bool) bool {
	w := s.states[Forward].Load()
	switch {
	case w < suspected:
		return false
	case w == suspected:
		return !comparable
	case now < time.Duration(w) || !comparable:
		return true
	}
	return !s.states[Forward].CompareAndSwap(w, int64(now+retestPause))
}

// RecordRefusal records that the proxy or the target has responded to a request in absolute form with a status of at
// least 400. The parameter comparable is as in UsesTunnel. If RecordRefusal returns true, the caller should send the
// same request through a tunnel of the proxy, and call RecordComparison.
func (s *Set) RecordRefusal(target uint64, status int, comparable bool, now time.Duration) (compare bool) {
	unsupported := IsUnsupported(status)
	if !unsupported && (!comparable || status != 400 && status != 403 && status != 404) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.observations().records[Forward]
	r.addRefusal(target, status)
	switch w := s.states[Forward].Load(); {
	case w == can, w == canRefused:
		s.states[Forward].Store(canRefused)
		if r.refusals < refusalsAfterSuccess || r.targetCount < severalTargets {
			return false
		}
		s.states[Forward].Store(unknown)
		r.since = now
	case w >= cannotMin: // this request was a test whether the proxy can forward again
		return comparable
	case !comparable && r.targetCount >= severalTargets:
		s.states[Forward].Store(suspected)
	}
	// A comparison costs a request. The first comparison is made at the first refusal if the proxy is known to open
	// tunnels and has not forwarded anything yet.
	first := !r.comparisonAsked && (s.State(TunnelTLS, now) == Can || s.State(TunnelOther, now) == Can)
	compare = comparable && (unsupported || r.targetCount >= severalTargets || first) && now >= r.nextComparison &&
		!s.observations().equalTargets.has(target, now)
	r.comparisonAsked = r.comparisonAsked || compare
	return compare
}

// addRefusal counts a refusal. A refusal with another status starts a new count, because different statuses probably
// come from targets.
func (r *record) addRefusal(target uint64, status int) {
	if IsUnsupported(status) {
		status = 405
	}
	if int(r.status) != status {
		r.clearRefusals()
		r.status = int16(status)
	}
	r.refusals = min(r.refusals+1, math.MaxInt32-1)
	if slices.Contains(r.targets[:r.targetCount], target) {
		return
	}
	if r.targetCount < severalTargets {
		r.targets[r.targetCount] = target
		r.targetCount++
	}
}

// IsQuestionable reports whether an error response to a request in absolute form may come from the proxy instead of the
// target. It returns true only if it is not known whether the proxy can forward, and if web servers respond with this
// status to the absolute form. It returns false if the target has just sent the same response through a tunnel of the
// proxy. After a result of true, the caller should send the request through another proxy, and call RecordQuestioned.
func (s *Set) IsQuestionable(target uint64, status int, now time.Duration) bool {
	switch status {
	case 400, 403, 404, 405, 421, 501:
	default:
		return false
	}
	if s.State(Forward, now) != Unknown {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.observations()
	return o.records[Forward].errorWeight < enoughErrors && !o.equalTargets.has(target, now)
}

// RecordQuestioned records the statuses of the two responses to a request: the status of the questionable response
// (first), and the status of the response through another proxy with which the request ended (second; 0 for none).
func (s *Set) RecordQuestioned(first, second int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.observations().records[Forward]
	switch {
	case second != 0 && second < 400:
		r.errorWeight = 0
	case second == first:
		r.errorWeight = min(r.errorWeight+sharedErrorWeight, enoughErrors)
	default:
		r.errorWeight = min(r.errorWeight+1, enoughErrors)
	}
}

// RecordLostResponse records that a client has lost a questionable response, because all other proxies have failed.
func (s *Set) RecordLostResponse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observations().records[Forward].lostResponse = true
}

// HasLostResponse reports whether a client has lost a questionable response since the proxy's last success
// (RecordLostResponse).
func (s *Set) HasLostResponse() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.observations().records[Forward].lostResponse
}

func (r *record) clearRefusals() {
	r.targets, r.targetCount, r.refusals = [severalTargets]uint64{}, 0, 0
}

// RecordComparison records the statuses of the two responses to a request that was sent in absolute form (first) and
// then through a tunnel (second; 0 without a response). It returns true if the statuses show that the proxy has refused
// the request.
func (s *Set) RecordComparison(target uint64, first, second int, now time.Duration) (refusedByProxy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.observations().records[Forward]
	switch {
	case second != 0 && (second < 400 || IsUnsupported(first) && second != first):
		s.recordMissing(Forward, now, 0, Traffic)
		return true
	case second == 0 && IsUnsupported(first) && r.targetCount >= severalTargets:
		// The proxy has refused requests for several targets, and has sent no other response since its last success.
		s.recordMissing(Forward, now, 0, Traffic)
	case s.states[Forward].Load() >= cannotMin: // the test gave no conclusion
	case second != 0: // the target sends the same response
		r.clearRefusals()
		s.observations().equalTargets.add(target, now+comparePause)
	default:
		r.nextComparison = now + comparePause
	}
	return false
}

// RecordRefusedForward records that the proxy, which is known not to forward, has refused to open a tunnel for a
// request, and has then refused the request in absolute form, too. After two such requests, the proxy counts as unable
// to open such tunnels.
func (s *Set) RecordRefusedForward(k Kind, target uint64, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states[Forward].Load() < cannotMin {
		return
	}
	r := &s.observations().records[k]
	r.addRefusal(target, 403)
	if r.refusals >= 2 {
		s.recordMissing(k, now, 0, Traffic)
	}
}

// recordOwnRefusal records a refusal that came from the proxy, because another proxy has served the same request.
func (s *Set) recordOwnRefusal(k Kind, target uint64, status int, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kinds := []Kind{k}
	if k != Forward && IsUnsupported(status) { // the method CONNECT is unsupported for all ports
		kinds = []Kind{TunnelTLS, TunnelOther}
	}
	needed := uint8(severalTargets)
	for _, kind := range kinds {
		r := &s.observations().records[kind]
		r.addRefusal(target, status)
		switch w := s.states[kind].Load(); {
		case w == can || w == canRefused:
			if !IsUnsupported(status) || r.refusals < refusalsAfterSuccess {
				if w == can {
					s.states[kind].Store(canRefused)
				}
				continue
			}
			needed = 1
		case IsUnsupported(status) || r.missingCount > 0:
			needed = 1
		}
		if r.targetCount >= needed || r.refusals >= manyRefusals && k != Forward {
			s.recordMissing(kind, now, 0, Traffic)
		}
	}
}

// IsUnsupported reports whether a status means that a method is not supported (RFC 9110 sections 15.5.6 and 15.6.2).
func IsUnsupported(status int) bool { return status == 405 || status == 501 }

// View is the state of an ability, for display.
type View struct {
	State  State
	Source Source
	Since  time.Duration // when the state began; 0 if the state is unknown
	Until  time.Duration // when the proxy is tried again; only if the state is Cannot
}

// View returns the state of an ability, for display.
func (s *Set) View(k Kind, now time.Duration) View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := View{State: s.State(k, now)}
	if v.State == Unknown {
		return v
	}
	r := &s.observations().records[k]
	v.Source, v.Since = r.source, r.since
	if v.State == Cannot {
		v.Until = time.Duration(s.states[k].Load())
	}
	return v
}
