// Package queue holds requests that wait for a unit of a resource. A unit is one of the attempts that max_in_flight
// permits at a proxy, or one retry of the retry budget. When a unit becomes free, one of the requests takes it.
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

// DefaultConfig returns the default limits.
func DefaultConfig() Config { return Config{MaxWaiting: 1024, MaxWait: time.Second} }

// Enabled reports whether requests may wait.
func (c Config) Enabled() bool { return c.MaxWaiting > 0 && c.MaxWait > 0 }

// The errors of a request that leaves the queue without a unit.
var (
	ErrFull    = errors.New("the queue is full")
	ErrExpired = errors.New("the longest wait has passed")
)

// Result is the result of Waiter.TryTake.
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
	// TryTake takes a unit for the request if a suitable unit is free. The queue calls TryTake while it holds its lock,
	// usually in the goroutine that has freed a unit. TryTake must not call the queue.
	TryTake func() Result

	next, prev *Waiter[K]
	waitStart  time.Time
	isWaiting  bool
	err        error         // why the wait has ended; nil if TryTake has returned Taken or Failed
	ended      chan struct{} // receives a value when isWaiting becomes false
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
	Waiting      int           // requests that wait now
	Queued       uint64        // requests that have waited or wait
	Expired      uint64        // requests whose longest wait has passed
	FullRefusals uint64        // requests that were refused or displaced because the queue was full
	WaitTime     time.Duration // sum of all waits that have ended
}

// Queue is safe for concurrent use. Make one with New.
type Queue[K comparable] struct {
	now     func() time.Time
	waiting atomic.Int32 // requests in lines, and requests that are about to enter a line

	mu          sync.Mutex // guards the fields below and the lines
	clock       uint64     // the largest tag of a line that has taken a unit
	lines       [core.PriorityCount + 1]line[K]
	kinds       map[K]int      // waiting requests by kind
	unavailable map[K]struct{} // the kinds for which TryTake has returned Nothing; used only by serveNext
}

// New returns an empty queue, which takes the time from now.
func New[K comparable](now func() time.Time) *Queue[K] {
	return &Queue[K]{now: now, kinds: map[K]int{}, unavailable: map[K]struct{}{}}
}

// tagStride determines how long a line waits for its next unit. When a line begins to wait, its tag becomes Queue.clock
// plus the tagStride of its priority; the line with the smallest tag is served first. If all requests of a line leave
// without a unit, the line keeps its tag, so that these requests do not lengthen the wait of the line's next request.
var tagStride = [...]uint64{core.PriorityHigh: 4, core.PriorityNormal: 16, core.PriorityLow: 48}

// guaranteedShare is a share of the queue, in sixteenths. A request is displaced only while the requests of its
// priority hold more than this share.
var guaranteedShare = [...]int{core.PriorityHigh: 12, core.PriorityNormal: 3, core.PriorityLow: 1}

// Empty reports whether no request waits. It takes no lock.
func (q *Queue[K]) Empty() bool { return q.waiting.Load() == 0 }

// Enter calls TryTake if no request of the same kind waits. If TryTake returns Nothing, or is not called, w begins to
// wait, and the caller must call Wait. Enter does not block. In a full queue, w displaces the youngest request of a
// priority that holds more than its share of the queue. If there is no such request, the error is ErrFull.
func (q *Queue[K]) Enter(w *Waiter[K], maxWaiting int) (waits bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting.Add(1) // first, so that w can take a unit that is freed after TryTake
	if q.kinds[w.Kind] == 0 && w.TryTake() != Nothing {
		q.waiting.Add(-1)
		return false, nil
	}
	l := &q.lines[w.Priority]
	if q.length() >= maxWaiting && !q.displace(w.Priority, maxWaiting) {
		q.waiting.Add(-1)
		l.counts.FullRefusals++
		return false, ErrFull
	}
	if w.ended == nil {
		w.ended = make(chan struct{}, 1)
	}
	if l.tag == 0 {
		l.tag = q.clock + tagStride[w.Priority]
	}
	w.isWaiting, w.err, w.waitStart = true, nil, q.now()
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

// Wait waits until TryTake returns Taken or Failed. In this case the error is nil, even if ctx has ended in the
// meantime. Otherwise the error is ErrExpired after maxWait, ErrFull if w was displaced, or the cause of the
// cancellation of ctx.
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
	if w.isWaiting {
		if err == ErrExpired {
			q.lines[w.Priority].counts.Expired++
		}
		q.endWait(w, err)
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
	q.serveNext()
}

// Serve lets requests take units until no request can take a free unit.
func (q *Queue[K]) Serve() {
	if q.Empty() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.serveNext() {
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

// serveNext lets one request take a unit, and returns false if none can. It calls TryTake for the requests of the line
// with the smallest tag, then for the requests of the next line, until a request takes a unit or TryTake has returned
// Nothing for every kind. The caller holds mu.
func (q *Queue[K]) serveNext() bool {
	clear(q.unavailable)
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
		for w := l.first; w != nil && len(q.unavailable) < len(q.kinds); {
			next := w.next
			if _, found := q.unavailable[w.Kind]; !found {
				switch w.TryTake() {
				case Taken:
					q.endWait(w, nil)
					q.clock = max(q.clock, l.tag)
					if l.tag = 0; l.length > 0 {
						l.tag = q.clock + tagStride[p]
					}
					return true
				case Failed:
					q.endWait(w, nil)
				case Nothing:
					q.unavailable[w.Kind] = struct{}{}
				}
			}
			w = next
		}
	}
	return false
}

// displace makes room for a request of priority p. Of the other priorities that hold more than their share of the
// queue, it chooses the lowest, and ends the wait of the youngest request of this priority. If priority p already holds
// its share, only a lower priority can be chosen. If no priority can be chosen, displace returns false. The caller
// holds mu.
func (q *Queue[K]) displace(p core.Priority, maxWaiting int) bool {
	limit := func(p core.Priority) int { return max(maxWaiting*guaranteedShare[p]/16, 1) }
	order := core.Priorities()
	for _, other := range slices.Backward(order[:]) {
		l := &q.lines[other]
		if other != p && l.length > limit(other) && (other > p || q.lines[p].length < limit(p)) {
			l.counts.FullRefusals++
			q.endWait(l.last, ErrFull)
			return true
		}
	}
	return false
}

// endWait ends the wait of w. The caller holds mu.
func (q *Queue[K]) endWait(w *Waiter[K], err error) {
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
	l.counts.WaitTime += q.now().Sub(w.waitStart)
	if q.kinds[w.Kind]--; q.kinds[w.Kind] == 0 {
		delete(q.kinds, w.Kind)
	}
	q.waiting.Add(-1)
	w.isWaiting, w.err = false, err
	w.ended <- struct{}{}
}

// length returns the number of requests that wait. The caller holds mu.
func (q *Queue[K]) length() (n int) {
	for i := range q.lines {
		n += q.lines[i].length
	}
	return n
}
