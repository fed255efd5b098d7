package conformance

import (
	"fmt"

	"github.com/whirlpool-proxy/whirlpool/plugins/trial"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func (k *kit) rulings() (string, error) {
	list := trial.Responses()
	err := k.fresh(func(p *wasmhost.Probe) error {
		_, err := rule(p, list)
		return err
	})
	return fmt.Sprintf("%d responses, at the edge too", len(list)), err
}

// rule returns the rulings on a list of responses: for each, the kind and the duration of the rest, in
// seconds.
func rule(p *wasmhost.Probe, list []trial.Response) ([]float64, error) {
	rulings := make([]float64, 0, 2*len(list))
	for i := range list {
		r, err := p.Rule(list[i].For(p.ExcerptSpec()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", list[i].Name, err)
		}
		rulings = append(rulings, float64(r.Kind), r.Rest.Seconds())
	}
	return rulings, nil
}

// sameRulings checks that a judge always rules in the same way on the same response. Before it compares rulings, it
// passes all responses to the judge in reverse order, one at a time. As a result, the module's memory holds the bytes
// of a different response when a response is written to it.
func (k *kit) sameRulings() (string, error) {
	list := trial.Responses()
	return k.same("rulings", func(p *wasmhost.Probe) ([]float64, error) {
		for i := range list {
			if _, err := rule(p, list[len(list)-1-i:][:1]); err != nil {
				return nil, err
			}
		}
		return rule(p, list)
	}, func(i int, first, then float64) error {
		what := "kind"
		if i%2 == 1 {
			what = "rest"
		}
		return fmt.Errorf("%s: for the same response, the %s was %v and then %v", list[i/2].Name, what, first, then)
	})
}

func (k *kit) dearestRuling(limit int64) (fuel int64, err error) {
	err = k.fresh(func(p *wasmhost.Probe) error {
		for _, r := range trial.Responses() {
			for range 2 {
				if _, err := p.Rule(r.For(p.ExcerptSpec())); err != nil {
					return fmt.Errorf("%s: %w", r.Name, err)
				}
			}
			fuel = max(fuel, limit-p.Fuel())
		}
		return nil
	})
	return fuel, err
}
