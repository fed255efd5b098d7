package api

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
)

// The types of live events. These events report the current state to a client that shows it, such as the dashboard.
// They are not kept and have no id. A client must ask for them. It first gets one event of each type. After that, it
// gets an event of a type whenever the state of this type changes.
const (
	eventViews  = "views"  // the names of the views whose responses have changed
	eventStatus = "status" // the response to GET /status
	eventTotals = "totals" // the response to GET /metrics/retries, and its time
)

var liveTypes = []string{eventViews, eventStatus, eventTotals}

// Times of live events.
const (
	liveInterval = time.Second            // interval between two events of a type for one client
	liveMaxAge   = 500 * time.Millisecond // maximum age of a state that clients share
)

// view is a group of GET endpoints whose responses change together. The function version returns a hash of what these
// responses depend on, except the time of day. If the hash changes, the responses have changed.
type view struct {
	name    string
	version func(*statusView, *summaryView) uint64
}

// live computes the state for live events. The state has three parts: the version of each view (in the order of views),
// the status, and the totals. A part is computed only if a client wants its events.
type live struct {
	views    []view
	versions sharedValue[[]uint64]
	status   sharedValue[statusView]
	totals   sharedValue[summaryView]
	seed     maphash.Seed
}

// sharedValue holds one of the parts of the state, which is computed for all clients together. It is safe for
// concurrent use.
type sharedValue[T any] struct {
	compute func() T

	mu     sync.Mutex // held while the part is computed
	latest atomic.Pointer[computedValue[T]]
}

// computedValue is a value of one part of the state, with its JSON and the time at which it was computed.
type computedValue[T any] struct {
	value T
	json  []byte
	at    time.Time
}

// get returns a value that is at most maxAge old. If the latest value is older, it computes a new one.
func (s *sharedValue[T]) get(maxAge time.Duration) *computedValue[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.update(maxAge)
}

// next returns a value that is at most liveMaxAge old. Its argument is the value that the same client got last; nil
// for a new client. Only a new client waits while another goroutine computes a value: any other client gets the latest
// value, because it calls next again soon.
func (s *sharedValue[T]) next(previous *computedValue[T]) *computedValue[T] {
	if previous == nil {
		return s.get(liveMaxAge)
	}
	if !s.mu.TryLock() {
		return s.latest.Load()
	}
	defer s.mu.Unlock()
	return s.update(liveMaxAge)
}

// The caller of update holds mu.
func (s *sharedValue[T]) update(maxAge time.Duration) *computedValue[T] {
	if c := s.latest.Load(); c != nil && time.Since(c.at) < maxAge {
		return c
	}
	c := &computedValue[T]{value: s.compute()}
	c.json, _ = json.Marshal(c.value) // all values can be encoded
	c.at = time.Now()
	s.latest.Store(c)
	return c
}

// liveState is the state for one client; a part that the client does not want is nil.
type liveState struct {
	versions *computedValue[[]uint64]
	status   *computedValue[statusView]
	totals   *computedValue[summaryView]
}

// nextState returns the state for a client that wants the live events of some types. Its second argument is the state
// that the client got last.
func (l *live) nextState(wantsType func(string) bool, previous liveState) (s liveState) {
	if wantsType(eventViews) { // first: the versions of the views need the other parts, and compute them
		s.versions = l.versions.next(previous.versions)
	}
	if wantsType(eventStatus) {
		s.status = l.status.next(previous.status)
	}
	if wantsType(eventTotals) {
		s.totals = l.totals.next(previous.totals)
	}
	return s
}

// appendChanges appends the live events for the differences between a client's last state and the current state.
func (l *live) appendChanges(out []byte, previous, now liveState) []byte {
	var changed []string
	for i, v := range l.views {
		if now.versions != nil && (previous.versions == nil || previous.versions.value[i] != now.versions.value[i]) {
			changed = append(changed, v.name)
		}
	}
	if changed != nil {
		data, _ := json.Marshal(changed)
		out = fmt.Appendf(out, "event: %s\ndata: {\"changed\":%s}\n\n", eventViews, data)
	}
	if now.status != nil && (previous.status == nil || string(previous.status.json) != string(now.status.json)) {
		out = fmt.Appendf(out, "event: %s\ndata: %s\n\n", eventStatus, now.status.json)
	}
	if now.totals != nil && (previous.totals == nil || string(previous.totals.json) != string(now.totals.json)) {
		at := now.totals.at.UTC().Format(time.RFC3339Nano)
		out = fmt.Appendf(out, "event: %s\ndata: {\"at\":%q,%s\n\n", eventTotals, at, now.totals.json[1:])
	}
	return out
}

// hasher computes the version of a view: a hash of the values that are added to it.
type hasher struct{ maphash.Hash }

func (l *live) hasher() *hasher {
	h := &hasher{}
	h.SetSeed(l.seed)
	return h
}

func (h *hasher) addNumber(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	_, _ = h.Write(b[:])
}

func (h *hasher) addText(s string) {
	h.addNumber(uint64(len(s)))
	_, _ = h.WriteString(s)
}

// addJSON adds the JSON form of a value.
func (h *hasher) addJSON(v any) {
	data, _ := json.Marshal(v)
	_, _ = h.Write(data)
}

// newLive returns a new *live, which computes the state from the given handlers and the parts of the program in cfg.
func newLive(
	cfg *Config, status *statusHandler, totals *metricsHandler, plugins *pluginHandler, cluster *clusterHandler,
	audit *auditTrail,
) *live {
	l := &live{seed: maphash.MakeSeed()}
	l.status.compute, l.totals.compute = status.view, totals.totals
	l.versions.compute = func() (versions []uint64) {
		status, totals := l.status.get(0), l.totals.get(0)
		for _, v := range l.views {
			versions = append(versions, v.version(&status.value, &totals.value))
		}
		return versions
	}
	l.views = []view{
		{"proxies", func(status *statusView, totals *summaryView) uint64 {
			h := l.hasher()
			h.addNumber(l.trafficVersion(cfg.Requests, totals))
			h.addNumber(cfg.Pool.Changes())
			h.addJSON(status.Proxies)
			h.addJSON(status.Failures)
			return h.Sum64()
		}},
		{"requests", func(_ *statusView, totals *summaryView) uint64 { return l.trafficVersion(cfg.Requests, totals) }},
		{"targets", func(*statusView, *summaryView) uint64 {
			h := l.hasher()
			for _, t := range cfg.Targets.Targets() {
				h.addText(t.Name)
				h.addNumber(uint64(t.Attempts)<<32 | uint64(t.Failures)<<1 | uint64(boolNumber(t.Suspect)))
				h.addNumber(uint64(t.LastFailure))
			}
			return h.Sum64()
		}},
		{"transitions", func(_ *statusView, totals *summaryView) uint64 { return totals.CircuitBreakerEventsCount }},
		{"history", func(_ *statusView, totals *summaryView) uint64 {
			h := l.hasher()
			h.addNumber(totals.TotalRequests)
			h.addNumber(totals.TotalAttempts)
			h.addNumber(cfg.Events.marks.count())
			return h.Sum64()
		}},
		{"plugins", func(*statusView, *summaryView) uint64 {
			h := l.hasher()
			h.addJSON(plugins.views())
			return h.Sum64()
		}},
		{"policy", func(*statusView, *summaryView) uint64 {
			h := l.hasher()
			h.addJSON(viewOfGlobalPolicy(cfg.Policies.View()))
			return h.Sum64()
		}},
		{"config", func(*statusView, *summaryView) uint64 {
			h := l.hasher()
			h.addNumber(cfg.Events.reloads.Load())
			h.addNumber(cfg.Changes.RecordsVersion())
			return h.Sum64()
		}},
		{"cluster", func(*statusView, *summaryView) uint64 {
			h := l.hasher()
			h.addJSON(cluster.view())
			return h.Sum64()
		}},
		{"audit", func(*statusView, *summaryView) uint64 { return audit.version() }},
	}
	return l
}

func boolNumber(b bool) int {
	if b {
		return 1
	}
	return 0
}

// shownRequests is the number of latest requests that trafficVersion looks at.
const shownRequests = 200

// trafficVersion returns a hash of the totals and of the latest requests. It changes when a request or an attempt
// begins or ends.
func (l *live) trafficVersion(requests Requests, totals *summaryView) uint64 {
	h := l.hasher()
	h.addNumber(totals.TotalRequests)
	h.addNumber(totals.TotalAttempts)
	for _, r := range requests.List("", shownRequests) {
		h.addNumber(uint64(r.ID))
		if r.State != metrics.StateDone {
			h.addText(r.State)
			h.addNumber(uint64(len(r.Attempts))<<32 | uint64(r.CurrentAttempt))
		}
	}
	return h.Sum64()
}
