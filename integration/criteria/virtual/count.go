package virtual

import (
	"slices"
	"strconv"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/faults"
	"github.com/whirlpool-proxy/whirlpool/integration/criteria/workload"
)

// A proxy is healthy if its state never changes and at most the share healthyLoss of its attempts fails.
const healthyLoss = 0.05

func countEvents(events [][]core.AttemptEvent) (n int) {
	for _, list := range events {
		n += len(list)
	}
	return n
}

// transitions returns the transitions of all breakers by proxy, ordered by time.
func transitions(e *engine.Engine) map[int][]core.Transition {
	list, _ := e.Metrics().Transitions(24)
	byProxy := map[int][]core.Transition{}
	for _, t := range list {
		i, err := strconv.Atoi(t.ProxyID)
		if err != nil {
			panic(err) // the ids are numbers
		}
		byProxy[i] = append(byProxy[i], t)
	}
	for i := range byProxy {
		slices.SortStableFunc(byProxy[i], func(a, b core.Transition) int { return a.At.Compare(b.At) })
	}
	return byProxy
}

// counter computes the counts of an outcome.
type counter struct {
	workload    *workload.Workload
	start       time.Time
	transitions map[int][]core.Transition // by proxy
}

// fillOutcome fills an outcome from the attempts of each request.
func (c *counter) fillOutcome(o *workload.Outcome, events [][]core.AttemptEvent, schedule []workload.Request) {
	starts := make([][]time.Time, len(c.workload.Pool)) // by proxy: beginnings of attempts
	failed := make([][]time.Time, len(c.workload.Pool)) // by proxy: ends of failed attempts
	for id, list := range events {
		for _, ev := range list {
			if ev.Outcome.Result != core.ResultReplay {
				o.Attempts[id]++
			}
			proxy, _ := strconv.Atoi(ev.ProxyID)
			starts[proxy] = append(starts[proxy], ev.Started)
			if r := ev.Outcome.Result; r == core.ResultFailure || r == core.ResultTimeout {
				failed[proxy] = append(failed[proxy], ev.Ended)
			}
			if c.workload.Pool[proxy].At(schedule[id].Target, ev.Started.Sub(c.start)).Bad() {
				o.BadAttempts++
			}
		}
	}
	end := time.Now()
	healthy, excluded := time.Duration(0), time.Duration(0)
	for i := range c.workload.Pool {
		p := &c.workload.Pool[i]
		spans := spansNotClosed(c.transitions[i], end)
		if len(p.Changes) == 1 && p.Changes[0].Loss() <= healthyLoss {
			healthy += end.Sub(c.start)
			for _, s := range spans {
				excluded += s.to.Sub(s.from)
			}
		}
		for _, s := range spans {
			if s.open {
				o.LateAttempts += s.countMoments(starts[i])
			}
		}
		for _, t := range c.transitions[i] {
			if t.From == core.Closed && t.To == core.Open {
				o.Openings++
			}
		}
		slices.SortFunc(failed[i], time.Time.Compare)
		c.addExclusions(o, p, c.transitions[i], failed[i])
	}
	if healthy > 0 {
		o.HealthyExcluded = excluded.Seconds() / healthy.Seconds()
	}
}

// span is a period in which a breaker is open or half-open.
type span struct {
	from, to time.Time
	open     bool
}

// countMoments returns the number of moments inside the span.
func (s span) countMoments(moments []time.Time) (n int) {
	for _, at := range moments {
		if at.After(s.from) && at.Before(s.to) {
			n++
		}
	}
	return n
}

// spansNotClosed returns the periods in which a breaker was not closed.
func spansNotClosed(list []core.Transition, end time.Time) (spans []span) {
	for i, t := range list {
		if t.To == core.Closed {
			continue
		}
		to := end
		if i+1 < len(list) {
			to = list[i+1].At
		}
		spans = append(spans, span{t.At, to, t.To == core.Open})
	}
	return spans
}

// threshold is the number of failures after which a breaker may open.
const threshold = 5

// addExclusions adds times of one proxy to ExclusionTimes and BreachDelays of an outcome. It adds one to each for every
// period in which the proxy fails all attempts, if the proxy's breaker opens within the period. The parameter failed
// has the times at which failed attempts ended, in order.
func (c *counter) addExclusions(o *workload.Outcome, p *faults.Proxy, list []core.Transition, failed []time.Time) {
	for i, change := range p.Changes {
		if i == 0 || change.Loss() < 1 || p.Changes[i-1].Loss() == 1 {
			continue
		}
		failsFrom, recoversAt := c.start.Add(change.At), time.Time{}
		if i+1 < len(p.Changes) {
			recoversAt = c.start.Add(p.Changes[i+1].At)
		}
		opening := slices.IndexFunc(list, func(t core.Transition) bool {
			return t.To == core.Open && !t.At.Before(failsFrom) && (recoversAt.IsZero() || t.At.Before(recoversAt))
		})
		if opening < 0 {
			continue
		}
		at := list[opening].At
		o.ExclusionTimes = append(o.ExclusionTimes, at.Sub(failsFrom).Seconds())
		first, _ := slices.BinarySearchFunc(failed, failsFrom, time.Time.Compare)
		late := time.Duration(0)
		if breach := first + threshold - 1; breach < len(failed) {
			late = max(at.Sub(failed[breach]), 0)
		}
		o.BreachDelays = append(o.BreachDelays, late.Seconds())
	}
}
