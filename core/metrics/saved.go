package metrics

import (
	"iter"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
)

// Saved holds counters of a Recorder in a form for a file. A row of Minutes replaces an earlier row of the same minute.
// A row of Hours replaces an earlier row of the same proxy and hour.
type Saved struct {
	Minutes     [][]int64            `json:"minutes,omitempty"` // a row: minute since the Unix epoch, counters
	Hours       map[string][][]int64 `json:"hours,omitempty"`   // by proxy; a row: hour since the epoch, counters
	Transitions []SavedTransition    `json:"transitions,omitempty"`
	Reasons     minutes.Saved        `json:"reasons,omitempty"`
}

// SavedTransition is a core.Transition.
type SavedTransition struct {
	ProxyID      string     `json:"proxy_id"`
	From         core.State `json:"from"`
	To           core.State `json:"to"`
	At           time.Time  `json:"at"`
	FailureCount int        `json:"failure_count"`
	Reason       string     `json:"reason"`
	Why          string     `json:"why,omitempty"`
}

// ReasonRestart is the reason of the transitions that EndRestore adds.
const ReasonRestart = "restart"

// Empty reports whether s holds nothing.
func (s *Saved) Empty() bool {
	return len(s.Minutes)+len(s.Hours)+len(s.Transitions)+len(s.Reasons) == 0
}

// saveState is the state that Save keeps between its calls.
type saveState struct {
	last        int64           // minute of the last call of Save
	minutes     map[int64]int64 // the sum of the saved counters of each minute that may still change
	transitions uint64          // number of transitions that Save has returned
}

// lateMinutes is the number of minutes after which the counters of a minute no longer change.
const lateMinutes = 2

// counters returns the counters of a minute, in the order of a row of Saved.Minutes.
func (m *minute) counters() []int64 {
	row := []int64{
		int64(m.requests.Load()), int64(m.delivered.Load()), int64(m.targetRefused.Load()), int64(m.attempts.Load()),
		int64(m.retries.Load()), int64(m.replays.Load()), int64(m.transitions.Load()), m.latency.Load(),
		m.backoffTime.Load(),
	}
	for i := range m.successByAttempt {
		row = append(row, int64(m.successByAttempt[i].Load()))
	}
	return append(row, int64(m.banned.Load()), m.cost.Load())
}

// setCounters sets the counters of a minute from a row of Saved.Minutes. The caller has removed the first number of the
// row, which is the minute itself. If the row has a wrong length, setCounters returns false. Rows of version 0.2 lack
// the banned responses and the cost.
func (m *minute) setCounters(row []int64) bool {
	const known = 9 + maxAttempts
	if len(row) < known || len(row) > known+2 {
		return false
	}
	if len(row) > known {
		m.banned.Store(uint64(row[known]))
	}
	if len(row) > known+1 {
		m.cost.Store(row[known+1])
	}
	for i, c := range []interface{ Store(uint64) }{
		&m.requests, &m.delivered, &m.targetRefused, &m.attempts, &m.retries, &m.replays, &m.transitions,
	} {
		c.Store(uint64(row[i]))
	}
	m.latency.Store(row[7])
	m.backoffTime.Store(row[8])
	for i := range m.successByAttempt {
		m.successByAttempt[i].Store(uint64(row[9+i]))
	}
	return true
}

// partLength is the maximum number of proxies in Saved.Hours, and of transitions, in each Saved that Save yields. A
// long list of dead proxies has many of both.
const partLength = 1000

// Save yields the counters of the retention, in several parts. Save(true) yields all counters, Save(false) those that
// have changed since the last call. The totals since the start and the counts by policy are left out. Save must not be
// called concurrently. If the caller stops before the last part, the next call must be Save(true).
func (r *Recorder) Save(all bool) iter.Seq[*Saved] {
	return func(yield func(*Saved) bool) {
		s := &Saved{Hours: map[string][][]int64{}, Reasons: r.reasons.Save(all)}
		now := r.now().Unix() / 60
		var sums map[int64]int64
		s.Minutes, sums = r.saveMinutes(all, now)
		oldest := r.now().Add(-r.retention)
		for id, rows := range r.savedHours(all, oldest.Unix()/3600) {
			if s.Hours[id] = rows; len(s.Hours) < partLength {
				continue
			}
			if !yield(s) {
				return
			}
			s = &Saved{Hours: map[string][][]int64{}}
		}
		since := r.saveState.transitions
		if all {
			since = 0
		}
		for {
			list, next := r.transitions.listAfter(since, partLength)
			since = next
			for _, t := range list {
				if !t.At.Before(oldest) {
					s.Transitions = append(s.Transitions, SavedTransition(t))
				}
			}
			if !s.Empty() && !yield(s) {
				return
			}
			if len(list) == 0 {
				break
			}
			s = &Saved{}
		}
		r.saveState = saveState{last: now, minutes: sums, transitions: since}
	}
}

// saveMinutes returns the rows of Saved.Minutes, and the next value of saveState.minutes. The current minute is passed
// in minutes since the Unix epoch.
func (r *Recorder) saveMinutes(all bool, now int64) (rows [][]int64, sums map[int64]int64) {
	sums = map[int64]int64{}
	r.eachMinute(r.retention, func(start time.Time, m *minute) {
		at := start.Unix() / 60
		if at < r.saveState.last-lateMinutes && !all {
			return
		}
		row, sum := m.counters(), int64(0)
		for _, n := range row {
			sum += n
		}
		if sum != r.saveState.minutes[at] || all {
			rows = append(rows, append([]int64{at}, row...))
		}
		if at >= now-lateMinutes {
			sums[at] = sum
		}
	})
	return rows, sums
}

// savedHours yields the rows of Saved.Hours by proxy. The parameters are those of proxy.save.
func (r *Recorder) savedHours(all bool, oldest int64) iter.Seq2[string, [][]int64] {
	return func(yield func(string, [][]int64) bool) {
		for _, n := range r.unusedOpenings.save(all, oldest) {
			if !yield(n.id, [][]int64{{int64(n.hour), 0, 0, 0, 0, int64(n.count), 0}}) {
				return
			}
		}
		r.proxies.Range(func(id, p any) bool {
			rows := p.(*proxy).save(all, oldest)
			return len(rows) == 0 || yield(id.(string), rows)
		})
	}
}

// save returns a row for each hour since the hour oldest. Unless the argument all is true, it leaves out the hours that
// have not changed since the last call.
func (p *proxy) save(all bool, oldest int64) (rows [][]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.hours {
		h := &p.hours[i]
		if sum := h.attempts + h.opens; (all || sum != h.saved) && h.number >= oldest {
			h.saved = sum
			rows = append(rows, []int64{h.number, int64(h.attempts), int64(h.success), int64(h.failed),
				int64(h.cancelled), int64(h.opens), int64(h.latency)})
		}
	}
	return rows
}

// Restore restores counters of an earlier process. It skips invalid rows. Before anything is counted, the caller passes
// each result of Save to Restore, in order, and then calls EndRestore once.
func (r *Recorder) Restore(s *Saved) {
	oldest, now := r.now().Add(-r.retention), r.now()
	for _, row := range s.Minutes {
		if len(row) > 0 && row[0] >= oldest.Unix()/60 && row[0] <= now.Unix()/60 {
			r.minuteAt(time.Unix(row[0]*60, 0)).setCounters(row[1:])
		}
	}
	for id, rows := range s.Hours {
		for _, row := range rows {
			valid := len(row) == 7 && row[0] >= oldest.Unix()/3600 && row[0] <= now.Unix()/3600
			if valid && !r.restoreOpenings(id, row) {
				r.proxyCounters(id).setHour(row)
			}
		}
	}
	r.reasons.Restore(s.Reasons)
	for _, t := range s.Transitions {
		if !t.At.Before(oldest) && !t.At.After(now) && t.From <= core.HalfOpen && t.To <= core.HalfOpen {
			r.transitions.add(core.Transition(t))
		}
	}
}

func (p *proxy) setHour(row []int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hourAt(time.Unix(row[0]*3600, 0))
	*h = hour{number: row[0], attempts: uint32(row[1]), success: uint32(row[2]), failed: uint32(row[3]),
		cancelled: uint32(row[4]), opens: uint32(row[5]), latency: time.Duration(row[6])}
	h.saved = h.attempts + h.opens
}

// EndRestore restores which proxies count as failing, and adds a transition for each breaker that was not closed,
// because breakers are closed after a restart.
func (r *Recorder) EndRestore() {
	r.reasons.EndRestore()
	list, total := r.transitions.listAfter(0, maxTransitions)
	r.saveState.transitions = total // the file already has these transitions
	last, recovered := map[string]core.State{}, map[string]time.Time{}
	for _, t := range list {
		last[t.ProxyID] = t.To
		if t.To == core.Closed && t.Reason != ReasonRestart {
			recovered[t.ProxyID] = t.At
		}
	}
	r.restoreRecentAttempts(recovered)
	for id, state := range last {
		if state != core.Closed {
			r.minuteAt(r.now()).transitions.Add(1)
			r.transitions.add(core.Transition{
				ProxyID: id, From: state, To: core.Closed, At: r.now(), Reason: ReasonRestart,
			})
		}
	}
}
