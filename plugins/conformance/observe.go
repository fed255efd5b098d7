package conformance

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

func (ck *checker) checkObserve() (string, error) {
	if !ck.learns {
		return "", skipError("the module does not learn: it exports no " + abi.Observe)
	}
	list := sample.Observations(1000)
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		for i := range list {
			if err := p.Observe(&list[i]); err != nil {
				return fmt.Errorf("observation %d, %+v: %w", i, list[i], err)
			}
			if i%100 == 0 {
				if err := ck.callOnce(p); err != nil {
					return fmt.Errorf("after %d observations: %w", i+1, err)
				}
			}
		}
		return nil
	})
	return fmt.Sprintf("%d, with calls between them", len(list)), err
}

// pools returns samples of a pool: plausible and extreme lists of proxies.
func pools() [][]wasmhost.Proxy {
	large := make([]wasmhost.Proxy, 300)
	for i := range large {
		large[i] = wasmhost.Proxy{ID: sample.ID(i), Region: []string{"", "EU", "US-EAST"}[i%3], Weight: 1,
			Cost: float64(i % 7), Metadata: map[string]string{"plan": "gold", "n": fmt.Sprint(i)}}
	}
	odd := []wasmhost.Proxy{
		{ID: "größer-€", Region: "Zürich", Weight: 1e6, Cost: 1e12,
			Metadata: map[string]string{"": "", "ключ": "значение"}},
		{ID: string(bytes.Repeat([]byte("x"), 256)), Weight: 1e-9},
	}
	return [][]wasmhost.Proxy{large[:1], large[:10], odd, {}, large, large[:10]}
}

func (ck *checker) checkPoolChanged() (string, error) {
	if !slices.Contains(ck.desc.Exports, abi.PoolChanged) {
		return "", skipError("the module does not ask for it: it exports no " + abi.PoolChanged)
	}
	err := ck.withInstance(func(p *wasmhost.Probe) error {
		for _, pool := range pools() {
			if err := p.SetPool(pool); err != nil {
				return fmt.Errorf("%d proxies: %w", len(pool), err)
			}
			if err := ck.callOnce(p); err != nil {
				return fmt.Errorf("after a change to %d proxies: %w", len(pool), err)
			}
		}
		return nil
	})
	return "pools of 0 to 300 proxies, with regions, metadata and text that is not ASCII", err
}
