package conformance

import (
	"fmt"

	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func (ck *checker) checkWaits() (string, error) {
	waits := sample.BackoffSamples()
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		_, err := callBackoffs(p, waits)
		return err
	})
	return fmt.Sprintf("%d questions, at the edge too", len(waits)), err
}

func callBackoffs(p *wasmhost.Probe, waits []sample.BackoffSample) ([]float64, error) {
	list := make([]float64, 0, len(waits))
	for _, w := range waits {
		d, err := p.Delay(&w.Request)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Name, err)
		}
		list = append(list, d)
	}
	return list, nil
}

func (ck *checker) checkSameWaits() (string, error) {
	waits := sample.BackoffSamples()
	return ck.checkSameResults("waits", func(p *wasmhost.Probe) ([]float64, error) { return callBackoffs(p, waits) },
		func(i int, first, then float64) error {
			return fmt.Errorf("%s: for the same request, the wait was %v s and then %v s", waits[i].Name, first, then)
		})
}
