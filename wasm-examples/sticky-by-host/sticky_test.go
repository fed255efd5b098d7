package sticky

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/hash"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
	"github.com/whirlpool-proxy/whirlpool/wasm-examples/internal/exampletest"
)

// pool returns n proxies of weight 1.
func pool(n int) []abi.Candidate {
	list := make([]abi.Candidate, n)
	for i := range list {
		list[i] = sdktest.Candidate(id(i))
	}
	return list
}

func id(i int) string { return fmt.Sprintf("proxy-%d", i+1) }

func host(i int) string { return fmt.Sprintf("host-%d.example", i) }

// choose returns the index of the proxy that a host gets.
func choose(p *exampletest.Plugin, proxies []abi.Candidate, host string) int {
	rows := make([]abi.Candidate, len(proxies))
	for i, c := range proxies {
		c.AffinityHash = hash.Pair(c.IDHash, hash.Of(host))
		rows[i] = c
	}
	return sdktest.Best(p.Score(abi.RankRequest{HostHash: hash.Of(host)}, rows))
}

const hosts = 4000

func TestAHostStaysWithItsProxy(t *testing.T) {
	p := exampletest.Scorer(t, exampletest.Build(t, "."), nil)
	proxies := pool(10)
	reversed := make([]abi.Candidate, len(proxies))
	for i, c := range proxies {
		c.SuccessRate, c.InFlight, c.Rotation = 0.1, float64(i), float64(i) // only the host may decide
		reversed[len(proxies)-1-i] = c
	}
	var share [10]int
	for i := range hosts {
		chosen := choose(p, proxies, host(i))
		share[chosen]++
		require.Equal(t, chosen, len(proxies)-1-choose(p, reversed, host(i)))
	}
	for _, n := range share {
		require.InDelta(t, hosts/10, n, 80, "shares of %d hosts: %v", hosts, share) // four standard deviations
	}

	var out strings.Builder
	for i := range 8 {
		fmt.Fprintf(&out, "%s -> %s\n", host(i), id(choose(p, proxies, host(i))))
	}
	exampletest.Output(t, ".", out.String())
}

func TestRemovingAProxyMovesOnlyItsHosts(t *testing.T) {
	p := exampletest.Scorer(t, exampletest.Build(t, "."), nil)
	before, after := pool(10), pool(9) // the second pool lacks the last proxy
	moved := 0
	for i := range hosts {
		was, is := choose(p, before, host(i)), choose(p, after, host(i))
		if was == 9 {
			moved++
		} else {
			require.Equal(t, was, is, host(i))
		}
	}
	require.InDelta(t, hosts/10, moved, 80)
}

func TestAWeightOfThreeHasThreeTimesTheHosts(t *testing.T) {
	p := exampletest.Scorer(t, exampletest.Build(t, "."), nil)
	proxies := pool(2)
	proxies[1].Weight = 3
	heavy := 0
	for i := range hosts {
		heavy += choose(p, proxies, host(i))
	}
	require.InDelta(t, 0.75, float64(heavy)/hosts, 0.03)
}

func TestEveryHashHasAFiniteScore(t *testing.T) {
	p := exampletest.Scorer(t, exampletest.Build(t, "."), nil)
	scores := p.Score(abi.RankRequest{}, []abi.Candidate{{AffinityHash: 0, Weight: 1}, {AffinityHash: 1, Weight: 1e-6},
		{AffinityHash: 1<<53 - 1, Weight: 1e6}})
	require.InDelta(t, -53*0.6931471805599453, scores[0], 1e-12)
	require.Zero(t, scores[2])
}

func TestAProxyThatRecoversIsUsedAgain(t *testing.T) {
	exampletest.Recovers(t, exampletest.Build(t, "."), nil, 1)
}
