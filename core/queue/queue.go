// Package queue holds requests that wait for a resource: for a place in flight at a proxy, or for a retry of the
// retry budget. When a unit of the resource becomes free, one of the requests takes the unit.
//
// Requests of the same priority take units in the order of their arrival. The priorities share the units as in a
// self-clocked fair queue (Golestani, INFOCOM 1994): while requests of all priorities wait, 12 of 16 units go to
// high, 3 to normal and 1 to low priority. If no request of a priority waits, the other priorities get the share of
// this priority. While requests of low priority wait, they get at least 1 of 18 units (5.6 %).
package queue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Config limits the number of waiting requests and the time that they wait.
type Config struct {
	MaxWaiting int           // maximum number of requests that wait at the same time; 0 for none
	MaxWait    time.Duration // the longest wait of a request
}

// Default returns the default limits.
func Default() Config { return Config{MaxWaiting: 1024, MaxWait: time.Second} }

// Enabled reports whether requests may wait.
func (c Config) Enabled() bool { return c.MaxWaiting > 0 && c.MaxWait > 0 }

// The errors of a request that leaves the queue without a unit.
var (
	ErrFull    = errors.New("the queue is full")
	ErrExpired = errors.New("the longest wait has passed")
)

// Result is the result of Waiter.Take.
type Result uint8

// The results.
const (
	Nothing Result = iota // no unit that the request can use is free: the request continues to wait
	Taken                 // the request has taken a unit
	Failed                // the request can no longer take a unit: its wait ends
)

// Waiter is a request that may wait in a queue. It can be reused after its wait.
type Waiter[K comparable] struct {
	Priority core.Priority // not AnyPriority
	Kind     K             // requests of one kind can use the same units
	// Take takes a unit for the request if a suitable unit is free. The queue calls Take while it holds its lock,
	// usually in the goroutine that has freed a unit. Take must not call the queue.
	Take func() Result

	next, prev *Waiter[K]
	since      time.Time
	waiting    bool
	err        error         // why the wait has ended; nil if Take has returned Taken or Failed
	ended      chan struct{} // receives a value when waiting becomes false
	timer      *time.Timer
}

// line holds the waiting requests of one priority, the oldest first.
type line[K comparable] struct {
	first, last *Waiter[K]
	length      int
	tag         uint64 // the line with the smallest tag is next; 0 if the line's last request has taken a unit
	counts      Counts
}

// Counts are the totals of one priority.
type Counts struct {
	Waiting int           // requests that wait at present
	Queued  uint64        // requests that have waited or wait
	Expired uint64        // requests whose longest wait has passed
	Full    uint64        // requests that were refused or displaced because the queue was full
	Waited  time.Duration // sum of all waits that have ended
}

// Queue is safe for concurrent use. Make one with New.
type Queue[K comparable] struct {
	now     func() time.Time
	waiting atomic.Int32 // requests in lines, and requests that are about to enter a line

	mu    sync.Mutex // guards the fields below and the lines
	clock uint64     // the largest tag of a line that has taken a unit
	lines [core.PriorityCount + 1]line[K]
	kinds map[K]int      // waiting requests by kind
	none  map[K]struct{} // the kinds for which Take has returned Nothing; used only by the method serve
}

// New returns an empty queue whose only source of time is now.
func New[K comparable](now func() time.Time) *Queue[K] {
	return &Queue[K]{now: now, kinds: map[K]int{}, none: map[K]struct{}{}}
}

// stride is added to the clock to get the tag of a line that begins to wait for a unit. If the requests of a line
// leave without a unit, the line keeps its tag, so that these requests do not lengthen the wait of the line's next
// request.
var stride = [...]uint64{core.PriorityHigh: 4, core.PriorityNormal: 16, core.PriorityLow: 48}

// share is the part of a queue, in sixteenths, that is guaranteed to each priority: requests within this part are not
// displaced by requests of other priorities.
var share = [...]int{core.PriorityHigh: 12, core.PriorityNormal: 3, core.PriorityLow: 1}

// Empty reports whether no request waits. It takes no lock.
func (q *Queue[K]) Empty() bool { return q.waiting.Load() == 0 }

// If a unit is free and no request of the same kind waits, Enter takes the unit for w and returns false. If Take fails,
// Enter returns false, too. Otherwise w begins to wait and Enter returns true; the caller must then call Wait. Enter
// does not block. In a full queue, w displaces the youngest request of a priority that holds more than its share of the
// queue. If there is no such request, the error is ErrFull.
func (q *Queue[K]) Enter(w *Waiter[K], maxWaiting int) (waits bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting.Add(1) // before Take, so that w gets the chance to take a unit that is freed after Take
	if q.kinds[w.Kind] == 0 && w.Take() != Nothing {
		q.waiting.Add(-1)
		return false, nil
	}
	l := &q.lines[w.Priority]
	if q.length() >= maxWaiting && !q.displace(w.Priority, maxWaiting) {
		q.waiting.Add(-1)
		l.counts.Full++
		return false, ErrFull
	}
	if w.ended == nil {
		w.ended = make(chan struct{}, 1)
	}
	if l.tag == 0 {
		l.tag = q.clock + stride[w.Priority]
	}
	w.waiting, w.err, w.since = true, nil, q.now()
	w.prev, w.next = l.last, nil
	if l.last != nil {
		l.last.next = w
	} else {
		l.first = w
	}
	l.last = w
	l.length++
	l.counts.Queued++
	q.kinds[w.Kind]++
	return true, nil
}

// Wait blocks until Take has returned Taken or Failed, and then returns nil. The error is ErrExpired after
// the longest wait, ErrFull if w was displaced, or the cause of the cancellation of ctx. The error may be nil
// although ctx has ended.
func (q *Queue[K]) Wait(ctx context.Context, w *Waiter[K], maxWait time.Duration) error {
	if w.timer == nil {
		w.timer = time.NewTimer(maxWait)
	} else {
		w.timer.Reset(maxWait)
	}
	var err error
	select {
	case <-w.ended:
		w.timer.Stop()
		return w.err
	case <-w.timer.C:
		err = ErrExpired
	case <-ctx.Done():
		w.timer.Stop()
		err = context.Cause(ctx)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.waiting {
		if err == ErrExpired {
			q.lines[w.Priority].counts.Expired++
		}
		q.end(w, err)
	}
	<-w.ended
	return w.err
}

// ServeOne lets one request take a unit that has become free. If no request waits, it takes no lock.
func (q *Queue[K]) ServeOne() {
	if q.Empty() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.serve()
}

// Serve lets requests take units until no request can take a free unit.
func (q *Queue[K]) Serve() {
	if q.Empty() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.serve() {
	}
}

// Counts returns the totals by priority.
func (q *Queue[K]) Counts() map[core.Priority]Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make(map[core.Priority]Counts, core.PriorityCount)
	for _, p := range core.Priorities() {
		c := q.lines[p].counts
		c.Waiting = q.lines[p].length
		out[p] = c
	}
	return out
}

// serve lets one request take a unit, and reports whether a request has taken a unit. It calls Take for the lines in
// the order of their tags, and for each kind of request once. The caller holds mu.
func (q *Queue[K]) serve() bool {
	clear(q.none)
	order := core.Priorities()
	slices.SortStableFunc(order[:], func(a, b core.Priority) int {
		if q.lines[a].tag < q.lines[b].tag {
			return -1
		}
		if q.lines[a].tag > q.lines[b].tag {
			return 1
		}
		return 0
	})
	for _, p := range order {
		l := &q.lines[p]
		for w := l.first; w != nil && len(q.none) < len(q.kinds); {
			next := w.next
			if _, found := q.none[w.Kind]; !found {
				switch w.Take() {
				case Taken:
					q.end(w, nil)
					q.clock = max(q.clock, l.tag)
					if l.tag = 0; l.length > 0 {
						l.tag = q.clock + stride[p]
					}
					return true
				case Failed:
					q.end(w, nil)
				case Nothing:
					q.none[w.Kind] = struct{}{}
				}
			}
			w = next
		}
	}
	return false
}

// displace ends the wait of another request to make room for a request of priority p. The displaced request is the
// youngest one of the lowest priority that holds more than its share of the queue. displace returns false if there is
// no such request. If the requests of priority p already hold their share, only requests of lower priorities are
// displaced. The caller holds mu.
func (q *Queue[K]) displace(p core.Priority, maxWaiting int) bool {
	limit := func(p core.Priority) int { return max(maxWaiting*share[p]/16, 1) }
	order := core.Priorities()
	for _, other := range slices.Backward(order[:]) {
		l := &q.lines[other]
		if other != p && l.length > limit(other) && (other > p || q.lines[p].length < limit(p)) {
			l.counts.Full++
			q.end(l.last, ErrFull)
			return true
		}
	}
	return false
}

// end ends the wait of w. The caller holds mu.
func (q *Queue[K]) end(w *Waiter[K], err error) {
	l := &q.lines[w.Priority]
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	w.next, w.prev = nil, nil
	l.length--
	l.counts.Waited += q.now().Sub(w.since)
	if q.kinds[w.Kind]--; q.kinds[w.Kind] == 0 {
		delete(q.kinds, w.Kind)
	}
	q.waiting.Add(-1)
	w.waiting, w.err = false, err
	w.ended <- struct{}{}
}

// length is the number of requests that wait. The caller holds mu.
func (q *Queue[K]) length() (n int) {
	for i := range q.lines {
		n += q.lines[i].length
	}
	return n
}
