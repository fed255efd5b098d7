package conformance

import (
	"fmt"

	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func (ck *checker) checkRulings() (string, error) {
	list := sample.Responses()
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		_, err := callJudge(p, list)
		return err
	})
	return fmt.Sprintf("%d responses, at the edge too", len(list)), err
}

// callJudge calls a judge for each response. For each response it returns two numbers: the kind of the ruling, and how
// long the proxy is banned for the host, in seconds.
func callJudge(p *wasmhost.Probe, list []sample.Response) ([]float64, error) {
	rulings := make([]float64, 0, 2*len(list))
	for i := range list {
		r, err := p.Rule(list[i].ForJudge(p.ExcerptSpec()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", list[i].Name, err)
		}
		rulings = append(rulings, float64(r.Kind), r.BanTime.Seconds())
	}
	return rulings, nil
}

// checkSameRulings checks that a judge always makes the same ruling on the same response. It first passes the responses
// in reverse order, so that the module's memory holds the bytes of a different response.
func (ck *checker) checkSameRulings() (string, error) {
	list := sample.Responses()
	return ck.checkSameResults("rulings", func(p *wasmhost.Probe) ([]float64, error) {
		for i := range list {
			if _, err := callJudge(p, list[len(list)-1-i:][:1]); err != nil {
				return nil, err
			}
		}
		return callJudge(p, list)
	}, func(i int, first, then float64) error {
		what := "kind"
		if i%2 == 1 {
			what = "rest"
		}
		return fmt.Errorf("%s: for the same response, the %s was %v and then %v", list[i/2].Name, what, first, then)
	})
}

func (ck *checker) maxJudgeFuel(limit int64) (fuel int64, err error) {
	err = ck.withInstance(func(p *wasmhost.Probe) error {
		for _, r := range sample.Responses() {
			for range 2 {
				if _, err := p.Rule(r.ForJudge(p.ExcerptSpec())); err != nil {
					return fmt.Errorf("%s: %w", r.Name, err)
				}
			}
			fuel = max(fuel, limit-p.Fuel())
		}
		return nil
	})
	return fuel, err
}
