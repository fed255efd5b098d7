package api

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
)

// The types of live events: they report the current state to a client that shows it, such as the dashboard. They are
// not kept and have no id. A client gets them only if it asks for them: first all of them, then those that have
// changed.
const (
	eventViews  = "views"  // the names of the views whose responses have changed
	eventStatus = "status" // the response to GET /status
	eventTotals = "totals" // the response to GET /metrics/retries, and its time
)

var liveTypes = []string{eventViews, eventStatus, eventTotals}

// Times of live events.
const (
	liveInterval = time.Second            // interval between two events of a type for one client
	liveMaxAge   = 500 * time.Millisecond // age up to which clients share a state
)

// view is a group of GET endpoints whose responses change together. The function version returns a hash of all that
// these responses depend on, apart from the time of day.
type view struct {
	name    string
	version func(*liveState) uint64
}

// live computes the state for live events, at most once in liveMaxAge for all clients, and only if a client asks. It
// is safe for concurrent use.
type live struct {
	views  []view
	status func() statusView
	totals func() summaryView
	seed   maphash.Seed

	mu     sync.Mutex // guards the fields below
	latest *liveState // nil at first; a state never changes
}

// liveState is the state of the gateway at one moment.
type liveState struct {
	at             time.Time
	versions       []uint64 // by index of live.views
	status, totals []byte   // JSON

	figures statusView
	sums    summaryView
}

// state returns a state that is at most liveMaxAge old.
func (l *live) state() *liveState {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.latest != nil && now.Sub(l.latest.at) < liveMaxAge {
		return l.latest
	}
	s := &liveState{figures: l.status(), sums: l.totals()}
	s.status, _ = json.Marshal(s.figures) // all views can be encoded
	s.totals, _ = json.Marshal(s.sums)
	for _, v := range l.views {
		s.versions = append(s.versions, v.version(s))
	}
	s.at = time.Now() // not before, because the readers that waited for the state use it, too
	l.latest = s
	return s
}

// appendChanges appends the live events for a client whose last state was before; nil for none yet.
func (l *live) appendChanges(out []byte, wantsType func(string) bool, before, now *liveState) []byte {
	var changed []string
	for i, v := range l.views {
		if before == nil || before.versions[i] != now.versions[i] {
			changed = append(changed, v.name)
		}
	}
	if wantsType(eventViews) && changed != nil {
		data, _ := json.Marshal(changed)
		out = fmt.Appendf(out, "event: %s\ndata: {\"changed\":%s}\n\n", eventViews, data)
	}
	if wantsType(eventStatus) && (before == nil || string(before.status) != string(now.status)) {
		out = fmt.Appendf(out, "event: %s\ndata: %s\n\n", eventStatus, now.status)
	}
	if wantsType(eventTotals) && (before == nil || string(before.totals) != string(now.totals)) {
		at := now.at.UTC().Format(time.RFC3339Nano)
		out = fmt.Appendf(out, "event: %s\ndata: {\"at\":%q,%s\n\n", eventTotals, at, now.totals[1:])
	}
	return out
}

// hasher computes a version from its parts.
type hasher struct{ maphash.Hash }

func (l *live) hasher() *hasher {
	h := &hasher{}
	h.SetSeed(l.seed)
	return h
}

func (h *hasher) number(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	_, _ = h.Write(b[:])
}

func (h *hasher) text(s string) {
	h.number(uint64(len(s)))
	_, _ = h.WriteString(s)
}

// json adds a value that can be encoded.
func (h *hasher) json(v any) {
	data, _ := json.Marshal(v)
	_, _ = h.Write(data)
}

// newLive returns the live events of the parts of cfg.
func newLive(
	cfg *Config, status *statusHandler, totals *metricsHandler, plugins *pluginHandler, cluster *clusterHandler,
) *live {
	l := &live{status: status.view, totals: totals.totals, seed: maphash.MakeSeed()}
	l.views = []view{
		{"proxies", func(s *liveState) uint64 {
			h := l.hasher()
			h.number(l.traffic(cfg.Requests, s))
			h.number(cfg.Pool.Changes())
			h.json(s.figures.Proxies)
			h.json(s.figures.Failures)
			return h.Sum64()
		}},
		{"requests", func(s *liveState) uint64 { return l.traffic(cfg.Requests, s) }},
		{"targets", func(*liveState) uint64 {
			h := l.hasher()
			for _, t := range cfg.Targets.Targets() {
				h.text(t.Name)
				h.number(uint64(t.Attempts)<<32 | uint64(t.Failures)<<1 | uint64(numberOf(t.Suspect)))
				h.number(uint64(t.LastFailure))
			}
			return h.Sum64()
		}},
		{"transitions", func(s *liveState) uint64 { return s.sums.CircuitBreakerEventsCount }},
		{"history", func(s *liveState) uint64 {
			h := l.hasher()
			h.number(s.sums.TotalRequests)
			h.number(s.sums.TotalAttempts)
			h.number(cfg.Events.marks.count())
			return h.Sum64()
		}},
		{"plugins", func(*liveState) uint64 {
			h := l.hasher()
			h.json(plugins.views())
			return h.Sum64()
		}},
		{"policy", func(*liveState) uint64 {
			h := l.hasher()
			h.json(viewOfGlobalPolicy(cfg.Policies.View()))
			return h.Sum64()
		}},
		{"config", func(*liveState) uint64 {
			h := l.hasher()
			h.number(cfg.Events.reloads.Load())
			h.number(cfg.Changes.RecordsVersion())
			return h.Sum64()
		}},
		{"cluster", func(*liveState) uint64 {
			h := l.hasher()
			h.json(cluster.view())
			return h.Sum64()
		}},
	}
	return l
}

func numberOf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// shownRequests is the number of requests that the version of the view requests depends on: the newest ones.
const shownRequests = 200

// traffic returns a hash that changes when a request or an attempt begins or ends.
func (l *live) traffic(requests Requests, s *liveState) uint64 {
	h := l.hasher()
	h.number(s.sums.TotalRequests)
	h.number(s.sums.TotalAttempts)
	for _, r := range requests.List("", shownRequests) {
		h.number(uint64(r.ID))
		if r.State != metrics.StateDone {
			h.text(r.State)
			h.number(uint64(len(r.Attempts))<<32 | uint64(r.CurrentAttempt))
		}
	}
	return h.Sum64()
}
