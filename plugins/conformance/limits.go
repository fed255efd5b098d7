package conformance

import (
	"fmt"

	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// The number of calls of the first round of checkMemory, and the fuel after which a round ends early.
const (
	firstRoundCalls = 10_000
	roundFuel       = 2_000_000_000
)

// maxRounds is the maximum number of rounds of checkMemory. A Go module needs several: Go's garbage collector runs for
// the first time when the module has allocated 4 MiB. If each call allocates 50 bytes, this is after 80,000 calls.
const maxRounds = 5

// checkMemory checks that the memory of an instance stops growing. After 10,000 calls it makes rounds of calls, each
// twice as long as the round before. The module passes when the memory has not grown in a round.
func (ck *checker) checkMemory() (string, error) {
	list := sample.Observations(100)
	var pages uint32
	made := 0
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		run := func(calls int) error {
			left := int64(roundFuel)
			for made = 0; made < calls && left > 0; made++ {
				if err := ck.callOnce(p); err != nil {
					return fmt.Errorf("call %d: %w", made+1, err)
				}
				left -= ck.onceFuelLimit() - p.Fuel()
				if err := p.Observe(&list[made%len(list)]); err != nil {
					return fmt.Errorf("observation %d: %w", made+1, err)
				}
			}
			return nil
		}
		if err := run(firstRoundCalls); err != nil {
			return err
		}
		for round := range maxRounds {
			before := p.Pages()
			if err := run(firstRoundCalls << round); err != nil {
				return err
			}
			if pages = p.Pages(); pages == before {
				return nil
			}
		}
		return fmt.Errorf("memory grew to %d pages, and still grew in the last %d calls", pages, made)
	})
	return fmt.Sprintf("%d pages, and no more in %d calls", pages, made), err
}

func (ck *checker) checkFuel() (string, error) {
	limit := ck.module.Limits().Fuel
	if ck.desc.Kind == wasmhost.Judge {
		spent, err := ck.maxJudgeFuel(limit)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d units for the dearest response, of %d", spent, limit), checkFuelMargin(spent, limit)
	}
	if ck.desc.Kind == wasmhost.Backoff {
		spent, err := ck.maxBackoffFuel(limit)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d units for the dearest wait, of %d", spent, limit), checkFuelMargin(spent, limit)
	}
	one, err := ck.scorerFuel(1)
	if err != nil {
		return "", err
	}
	all, err := ck.scorerFuel(abi.MinCandidates)
	if err != nil {
		return "", err
	}
	limit += abi.MinCandidates * wasmhost.FuelPerCandidate
	detail := fmt.Sprintf("%d units for one candidate, %.1f for each more; %d for %d, of %d", one,
		float64(all-one)/(abi.MinCandidates-1), all, abi.MinCandidates, limit)
	return detail, checkFuelMargin(all, limit)
}

// checkFuelMargin returns an error unless at least a tenth of the fuel is left.
func checkFuelMargin(spent, limit int64) error {
	if spent > limit/10*9 {
		return fmt.Errorf("a call takes %d of its %d units of fuel", spent, limit)
	}
	return nil
}

// scorerFuel returns the fuel that a call with n candidates uses. It measures the second call, because the module may
// have to reserve memory in the first call.
func (ck *checker) scorerFuel(n int) (fuel int64, err error) {
	c := sample.PlausibleChoice(n)
	err = ck.withInstance(func(p *wasmhost.Probe) error {
		for range 2 {
			if _, err := callScorer(p, c); err != nil {
				return err
			}
		}
		fuel = ck.module.Limits().Fuel + int64(n)*wasmhost.FuelPerCandidate - p.Fuel()
		return nil
	})
	return fuel, err
}

func (ck *checker) maxBackoffFuel(limit int64) (fuel int64, err error) {
	err = ck.withInstance(func(p *wasmhost.Probe) error {
		for _, w := range sample.BackoffSamples() {
			for range 2 {
				if _, err := p.Delay(&w.Request); err != nil {
					return fmt.Errorf("%s: %w", w.Name, err)
				}
			}
			fuel = max(fuel, limit-p.Fuel())
		}
		return nil
	})
	return fuel, err
}

// checkTime makes the most expensive calls that every module must serve, and checks that each of them takes at most a
// quarter of the CPU timeout.
func (ck *checker) checkTime() (string, error) {
	within := ck.module.Limits().CallTimeout / 4
	detail := fmt.Sprintf("a call takes less than %v of CPU time, a quarter of its timeout", within)
	return detail, ck.withInstance(func(p *wasmhost.Probe) error {
		if ck.desc.Kind == wasmhost.Judge {
			for _, r := range sample.Responses() {
				err := ck.module.CheckCall(func() error {
					_, err := p.Rule(r.ForJudge(p.ExcerptSpec()))
					return err
				})
				if err != nil {
					return fmt.Errorf("%s: %w", r.Name, err)
				}
			}
			return nil
		}
		if ck.desc.Kind == wasmhost.Backoff {
			for _, w := range sample.BackoffSamples() {
				err := ck.module.CheckCall(func() error {
					_, err := p.Delay(&w.Request)
					return err
				})
				if err != nil {
					return fmt.Errorf("%s: %w", w.Name, err)
				}
			}
			return nil
		}
		c := sample.PlausibleChoice(abi.MinCandidates)
		return ck.module.CheckCall(func() error {
			_, err := callScorer(p, c)
			return err
		})
	})
}

// checkInstances checks that calls of one instance do not affect another instance.
func (ck *checker) checkInstances() (string, error) {
	callAll := func(p *wasmhost.Probe) ([]float64, error) {
		switch ck.desc.Kind {
		case wasmhost.Backoff:
			return callBackoffs(p, sample.BackoffSamples())
		case wasmhost.Judge:
			return callJudge(p, sample.Responses())
		}
		return callScorer(p, sample.PlausibleChoice(20))
	}
	var alone, besideBusy []float64
	err := ck.withInstance(func(p *wasmhost.Probe) (err error) {
		alone, err = callAll(p)
		return err
	})
	if err != nil {
		return "", err
	}
	list := sample.Observations(200)
	err = ck.withInstance(func(busy *wasmhost.Probe) error {
		return ck.withInstance(func(p *wasmhost.Probe) (err error) {
			for i := range list {
				if err := busy.Observe(&list[i]); err != nil {
					return err
				}
				if _, err := callAll(busy); err != nil {
					return err
				}
			}
			besideBusy, err = callAll(p)
			return err
		})
	})
	if err != nil {
		return "", err
	}
	if i := firstDifference(alone, besideBusy); i >= 0 {
		return "", fmt.Errorf("result %d is %v alone, but %v if another instance is busy", i, alone[i], besideBusy[i])
	}
	return "the calls of one do not affect another", nil
}
