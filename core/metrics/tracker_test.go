package metrics

import (
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// trackerModel computes what a tracker should list.
type trackerModel struct {
	now     time.Time
	nextID  core.RequestID
	keep    int
	entries []*entryModel
	done    []Request // the newest last
}

type entryModel struct {
	*Entry
	current *Request // nil between requests
}

// lookup returns what Get should return.
func (m *trackerModel) lookup(id core.RequestID) (Request, bool) {
	for _, r := range m.list("", 1_000_000) {
		if r.ID == id {
			return r, true
		}
	}
	return Request{}, false
}

// list returns what List should return.
func (m *trackerModel) list(state string, limit int) []Request {
	all := []Request{}
	for _, e := range m.entries {
		if e.current != nil {
			all = append(all, *e.current)
		}
	}
	slices.SortFunc(all, func(a, b Request) int { return b.Started.Compare(a.Started) })
	for _, r := range slices.Backward(m.done) {
		all = append(all, r)
	}
	all = slices.DeleteFunc(all, func(r Request) bool { return state != "" && r.State != state })
	return all[:min(limit, len(all))]
}

// withoutEmpty replaces an empty slice of attempts by nil.
func withoutEmpty(r Request) Request {
	if len(r.Attempts) == 0 {
		r.Attempts = nil
	}
	return r
}

// After any sequence of calls, the tracker lists the same requests as a simple model. The returned requests
// do not change later.
func TestTrackerModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := NewTracker()
		m := &trackerModel{now: noon, keep: rapid.IntRange(1, 4).Draw(t, "keep")}
		tr.maxEnded = m.keep
		type answer struct{ got, want Request }
		var answers []answer
		// with returns an action on an entry with, or without, a request in flight. If there is no such entry, the
		// action does nothing. The action must not skip: rapid gives up after 100 actions in a row that skip.
		with := func(inFlight bool, action func(*rapid.T, *entryModel)) func(*rapid.T) {
			return func(t *rapid.T) {
				var fit []*entryModel
				for _, e := range m.entries {
					if (e.current != nil) == inFlight {
						fit = append(fit, e)
					}
				}
				if len(fit) > 0 {
					action(t, rapid.SampledFrom(fit).Draw(t, "entry"))
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"track": func(*rapid.T) { m.entries = append(m.entries, &entryModel{Entry: tr.Track()}) },
			"begin": with(false, func(_ *rapid.T, e *entryModel) {
				m.nextID++
				m.now = m.now.Add(time.Millisecond)
				e.current = &Request{ID: m.nextID, Method: "GET", Host: "a.test", State: StateSelecting, Started: m.now}
				e.Begin(m.nextID, "GET", "a.test", m.now)
			}),
			"attempt": with(true, func(_ *rapid.T, e *entryModel) {
				n := len(e.current.Attempts)
				e.current.State, e.current.CurrentAttempt, e.current.ProxyID = StateAttempting, n, "p"
				e.BeginAttempt(n, "p")
			}),
			"finished": with(true, func(_ *rapid.T, e *entryModel) {
				event := core.AttemptEvent{Request: e.current.ID, Attempt: len(e.current.Attempts)}
				e.current.Attempts = append(slices.Clone(e.current.Attempts), event)
				e.EndAttempt(&event)
			}),
			"waiting": with(true, func(_ *rapid.T, e *entryModel) {
				e.current.State, e.current.NextRetry, e.current.CurrentAttempt = StateWaiting, m.now.Add(time.Second), 1
				e.BeginBackoff(e.current.NextRetry, 1)
			}),
			"streaming": with(true, func(_ *rapid.T, e *entryModel) {
				e.current.State = StateStreaming
				e.BeginStreaming()
			}),
			"tunnel": with(true, func(_ *rapid.T, e *entryModel) {
				e.current.State = StateTunnel
				e.BeginTunnel()
			}),
			"end": with(true, func(_ *rapid.T, e *entryModel) {
				r := *e.current
				r.State, r.Ended, r.Final, r.Status = StateDone, m.now, core.FinalSuccess, 200
				m.done = append(m.done, r)
				m.done = m.done[max(0, len(m.done)-m.keep):]
				e.current = nil
				e.End(core.FinalSuccess, 200, m.now)
			}),
			"end again": with(false, func(_ *rapid.T, e *entryModel) { e.End(core.FinalExhausted, 502, m.now) }),
			"release": with(false, func(_ *rapid.T, e *entryModel) {
				m.entries = slices.DeleteFunc(m.entries, func(o *entryModel) bool { return o == e })
				e.Release()
			}),
			"": func(t *rapid.T) {
				inFlight := 0
				for _, e := range m.entries {
					if e.current != nil {
						inFlight++
					}
				}
				require.Equal(t, inFlight, tr.InFlight())
				require.Len(t, tr.entries, len(m.entries))
				state := rapid.SampledFrom(append(States(), "")).Draw(t, "state")
				limit := rapid.IntRange(1, 8).Draw(t, "limit")
				list := tr.List(state, limit)
				for i := range list {
					list[i] = withoutEmpty(list[i])
				}
				require.Equal(t, m.list(state, limit), list, "%q %d", state, limit)
				id := core.RequestID(rapid.Uint64Range(0, uint64(m.nextID)+1).Draw(t, "id"))
				want, wantOK := m.lookup(id)
				got, ok := tr.Get(id)
				require.Equal(t, wantOK, ok)
				if ok {
					answers = append(answers, answer{withoutEmpty(got), want.copy()})
				}
				for _, a := range answers {
					require.Equal(t, a.want, a.got)
				}
			},
		})
	})
}

// search runs f while the entries in busy cannot be read. Meanwhile it ends the request of the entry e.
func search(e *Entry, busy []*Entry, f func()) {
	for _, b := range busy {
		b.mu.Lock()
	}
	var wg sync.WaitGroup
	wg.Go(f)
	for range 100 { // in most runs, f reaches a busy connection
		runtime.Gosched()
	}
	e.End(core.FinalSuccess, 200, noon)
	for _, b := range busy {
		b.mu.Unlock()
	}
	wg.Wait()
}

func TestARequestEndsDuringASearch(t *testing.T) {
	tr := NewTracker()
	e := tr.Track()
	busy := make([]*Entry, 10)
	for i := range busy {
		busy[i] = tr.Track()
	}
	for id := core.RequestID(1); id <= 300; id++ {
		e.Begin(id, "GET", "a.test", noon)
		search(e, busy, func() {
			r, ok := tr.Get(id)
			require.True(t, ok)
			require.Equal(t, id, r.ID)
		})
		e.Begin(1000+id, "GET", "a.test", noon)
		search(e, busy, func() {
			found := 0
			for _, r := range tr.List("", 10) {
				if r.ID == 1000+id {
					found++
				}
			}
			require.Equal(t, 1, found)
		})
	}
}

// observer keeps the ids of the requests and the numbers of attempts that it receives.
type observer struct {
	requests []core.RequestID
	attempts []int
}

func (o *observer) Attempt(e *core.AttemptEvent) { o.attempts = append(o.attempts, e.Attempt) }

func (o *observer) Request(r *Request) {
	if r.State == StateDone && len(r.Attempts) == 2 {
		o.requests = append(o.requests, r.ID)
	}
}

func TestAnObserver(t *testing.T) {
	tr, o := NewTracker(), &observer{}
	tr.SetObserver(o)
	e := tr.Track()
	defer e.Release()
	for id := range core.RequestID(3) {
		e.Begin(id, "GET", "a", time.Time{})
		e.EndAttempt(&core.AttemptEvent{Attempt: 0})
		e.EndAttempt(&core.AttemptEvent{Attempt: 1})
		e.End(core.FinalExhausted, 502, time.Time{})
		e.End(core.FinalExhausted, 502, time.Time{}) // has no effect
	}
	require.Equal(t, []core.RequestID{0, 1, 2}, o.requests)
	require.Equal(t, []int{0, 1, 0, 1, 0, 1}, o.attempts)
}
