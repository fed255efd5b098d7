package workload

import (
	"container/heap"
	"math"
	"slices"
	"time"
)

// ObserverName is the name of the variant that Observer simulates.
const ObserverName = "observer"

// Observer returns the outcome of a gateway that cannot read the trace, but learns more from its attempts than a real
// gateway. A real gateway learns only whether an attempt succeeded. The observer learns, at the end of an attempt, the
// probability of failure that the proxy had at the beginning of the attempt. If targets ban the proxy, this
// probability holds only for the attempt's target. The observer also has the mean duration of each proxy's states, and
// each proxy's mean probability of failure. It makes as many attempts as Oracle, and has no backoff either.
func (w *Workload) Observer(attempts int) *Outcome {
	if w.MaxAttempts > 0 {
		attempts = w.MaxAttempts
	}
	schedule := w.Schedule()
	n := len(schedule)
	o := &Outcome{
		Workload: w.Name, Variant: ObserverName, Reconciled: true,
		Served: make([]bool, n), Attempts: make([]uint8, n), Latency: make([]float64, n),
	}
	view, used, events := newView(w), make([][]int, n), &eventQueue{}
	for id, q := range schedule {
		heap.Push(events, event{at: q.At, id: id, proxy: -1})
	}
	for events.Len() > 0 {
		e := heap.Pop(events).(event)
		id, q := e.id, schedule[e.id]
		number := int(o.Attempts[id]) // number of the next attempt
		if e.proxy >= 0 {
			view.learn(e.proxy, q.Target, e.began)
			if e.served || number == attempts {
				o.Served[id], o.Latency[id] = e.served, float64(e.at-q.At)/float64(time.Millisecond)
				continue
			}
		}
		i := view.choose(q.Target, e.at, used[id], number > 0)
		state := w.Pool[i].At(q.Target, e.at)
		if state.Bad() {
			o.BadAttempts++
		}
		if used[id] = append(used[id], i); len(used[id]) == len(w.Pool) {
			used[id] = nil
		}
		o.Attempts[id]++
		heap.Push(events, event{
			at: e.at + w.Latency(id, number, state.Latency), id: id, proxy: i, began: e.at,
			served: w.Luck(id, number) >= state.Loss(),
		})
	}
	return o
}

// event is the beginning of a request, or the end of an attempt.
type event struct {
	at     time.Duration
	id     int           // id of the request
	proxy  int           // index of the attempt's proxy; -1 at the beginning of a request
	began  time.Duration // beginning of the attempt
	served bool
}

// eventQueue is a heap of events, earliest first. Of events at the same time, ends of attempts come first.
type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].proxy >= 0 && q[j].proxy < 0
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// view has the data from which an observer chooses proxies.
type view struct {
	workload *Workload
	mean     []float64 // by proxy: mean probability of failure
	memory   []float64 // by proxy: seconds after which an observed state shows little about the proxy
	seen     map[pair]sight
	used     map[pair]time.Duration // beginning of the latest attempt
}

// pair is a proxy and a target. If no target bans the proxy, all targets are treated as one, anyTarget.
type pair struct{ proxy, target int }

const anyTarget = -1

// sight is a proxy's probability of failure at one time.
type sight struct {
	at   time.Duration
	loss float64
}

func newView(w *Workload) *view {
	v := &view{workload: w, seen: map[pair]sight{}, used: map[pair]time.Duration{}}
	for i := range w.Pool {
		mean, memory := w.Pool[i].Habits(w.Duration())
		v.mean, v.memory = append(v.mean, mean), append(v.memory, memory)
	}
	return v
}

func (v *view) pair(proxy, target int) pair {
	if len(v.workload.Pool[proxy].Bans) == 0 {
		target = anyTarget
	}
	return pair{proxy, target}
}

// learn records the probability of failure that a proxy had when an attempt began. It does nothing
// if an attempt that began later is recorded.
func (v *view) learn(proxy, target int, began time.Duration) {
	p := v.pair(proxy, target)
	if old, ok := v.seen[p]; !ok || old.at <= began {
		v.seen[p] = sight{began, v.workload.Pool[proxy].At(target, began).Loss()}
	}
}

// loss returns the expected probability of failure of an attempt. It is the last recorded probability, which moves
// towards the proxy's mean as time passes. Without a record it is 0.
func (v *view) loss(proxy, target int, at time.Duration) float64 {
	s, ok := v.seen[v.pair(proxy, target)]
	if !ok {
		return 0
	}
	return v.mean[proxy] + (s.loss-v.mean[proxy])*math.Exp(-(at-s.at).Seconds()/v.memory[proxy])
}

// goodLoss is a probability of failure. First attempts go to the proxies that are expected to fail less often than
// this.
const goodLoss = 0.5

// choose chooses a proxy that the request has not used. A first attempt goes to the proxy that was used longest ago
// among the proxies whose loss is below goodLoss. So each of them is observed from time to time. A retry goes to the
// proxy with the smallest loss.
func (v *view) choose(target int, at time.Duration, used []int, retry bool) int {
	better := func(i, j int) bool {
		a, b := v.loss(i, target, at), v.loss(j, target, at)
		if !retry {
			a, b = max(a, goodLoss), max(b, goodLoss)
		}
		return a < b || a == b && v.lastUse(i, target) < v.lastUse(j, target)
	}
	best := -1
	for i := range v.workload.Pool {
		if !slices.Contains(used, i) && (best < 0 || better(i, best)) {
			best = i
		}
	}
	v.used[v.pair(best, target)] = at
	return best
}

func (v *view) lastUse(proxy, target int) time.Duration {
	if at, ok := v.used[v.pair(proxy, target)]; ok {
		return at
	}
	return -1
}
