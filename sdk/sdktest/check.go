package sdktest

import (
	"fmt"
	"math"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/backoff"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/observe"
	"github.com/whirlpool-proxy/whirlpool/sdk/scorer"
)

// Score returns the scores that a scorer computes. It sets the request's Count. If the request's PoolSize is 0, it
// sets PoolSize, too.
func Score(s scorer.Scorer, req abi.RankRequest, candidates []abi.Candidate) []float64 {
	req.Count = float64(len(candidates))
	if req.PoolSize == 0 {
		req.PoolSize = req.Count
	}
	scores := make([]float64, len(candidates))
	s.Score(&req, candidates, scores)
	return scores
}

// CheckScorer returns an error if a scorer breaks a rule of the gateway. All scores must be finite, the same events
// must lead to the same scores, and the scorer must write only to the slice of the scores. CheckScorer replays the
// recording, and then choices among 1, 256 and 1,000 candidates. The function fresh returns a new scorer. If the scorer
// is a configure.Configurer, it is configured without settings. If it is an observe.Observer, it gets the recording's
// observations.
func CheckScorer(fresh func() scorer.Scorer) error {
	events := Recorded()
	for _, n := range []int{1, 256, 1000} {
		q := Request()
		events = append(events, Event{Request: &q, Candidates: Candidates(n)})
	}
	return twice(func() ([]float64, error) {
		s := fresh()
		return play(events, s, func(e Event) ([]float64, error) {
			if e.Request == nil {
				return nil, nil
			}
			before := slices.Clone(e.Candidates)
			scores := Score(s, *e.Request, e.Candidates)
			if !slices.Equal(before, e.Candidates) {
				return nil, fmt.Errorf("it wrote to the candidates")
			}
			return scores, nil
		})
	})
}

// CheckBackoff returns an error if a backoff breaks a rule of the gateway. All waits must be finite and at least 0, the
// same events must lead to the same waits, and the backoff must not write to its input. CheckBackoff replays the
// recording, and then a hundred retries of a request. The function fresh returns a new backoff. If the backoff has
// Configure or Observe, they are called as in CheckScorer.
func CheckBackoff(fresh func() backoff.Backoff) error {
	events := Recorded()
	for i := range 100 {
		q := BackoffRequest(i+1, "proxy-1")
		q.Random = float64(i) / 100
		events = append(events, Event{Backoff: &q})
	}
	return twice(func() ([]float64, error) {
		b := fresh()
		return play(events, b, func(e Event) ([]float64, error) {
			if e.Backoff == nil {
				return nil, nil
			}
			q := *e.Backoff
			wait := b.Delay(&q)
			switch {
			case q != *e.Backoff:
				return nil, fmt.Errorf("it wrote to the request")
			case wait < 0:
				return nil, fmt.Errorf("it returned a wait of %v; it must be at least 0", wait)
			}
			return []float64{wait}, nil
		})
	})
}

// play replays events to a plugin and returns all its results.
func play(events Recording, plugin any, answer func(Event) ([]float64, error)) (all []float64, err error) {
	if c, ok := plugin.(configure.Configurer); ok {
		if err := configure.Apply(c, configure.New()); err != nil {
			return nil, fmt.Errorf("without settings: %w", err)
		}
	}
	for i, e := range events {
		if o, ok := plugin.(observe.Observer); ok && e.Observation != nil {
			told := *e.Observation
			o.Observe(&told)
		}
		answers, err := answer(e)
		for _, a := range answers {
			if math.IsNaN(a) || math.IsInf(a, 0) {
				err = fmt.Errorf("it answered %v; it must be finite", a)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		all = append(all, answers...)
	}
	return all, nil
}

func twice(run func() ([]float64, error)) error {
	first, err := run()
	if err != nil {
		return err
	}
	second, err := run()
	if err != nil {
		return err
	}
	if !slices.Equal(first, second) {
		return fmt.Errorf("it answered differently to the same events: chance is the request's Seed or Random, the " +
			"time its Now")
	}
	return nil
}
