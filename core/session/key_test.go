package session

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestKeysDiffer(t *testing.T) {
	keys := map[Key]bool{}
	for _, k := range []Key{
		KeyOf("", "a", ""), KeyOf("a", "", ""), KeyOf("", "", "a"), KeyOf("a", "b", ""), KeyOf("ab", "", ""),
		KeyOf("a", "b", "us"), KeyOf("b", "a", "us"),
	} {
		require.False(t, keys[k])
		keys[k] = true
	}
	require.Equal(t, KeyOf("a", "b", "us"), KeyOf("a", "b", "us"))
}

// proxy is a proxy in the tests of Key.Score.
type proxy struct {
	hash   uint64
	weight float64
}

// drawProxy returns a random proxy whose hash ends with the byte last.
func drawProxy(t *rapid.T, last uint64) proxy {
	hash := rapid.Uint64Range(0, 1<<50).Draw(t, "hash")
	return proxy{hash<<8 + last, rapid.Float64Range(0.1, 10).Draw(t, "weight")}
}

// place returns the hash of the proxy with the highest score.
func place(k Key, proxies []proxy) uint64 {
	best := proxies[0]
	for _, p := range proxies {
		if k.Score(p.hash, p.weight) > k.Score(best.hash, best.weight) {
			best = p
		}
	}
	return best.hash
}

// An added proxy gets sessions, but no session moves between the other proxies. A removed proxy moves only
// its own sessions.
func TestOnlyTheShareOfAProxyMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "proxies")
		proxies := make([]proxy, n)
		for i := range proxies {
			proxies[i] = drawProxy(t, uint64(i))
		}
		added := drawProxy(t, 255)
		larger := append(proxies[:n:n], added)
		for i := range 50 {
			k := KeyOf("user", strconv.Itoa(i), "")
			if before, after := place(k, proxies), place(k, larger); after != added.hash {
				require.Equal(t, before, after)
			}
		}
	})
}

// The shares are proportional to the weights: with weights of 1, 2 and 5, the proxy with weight 1 has 1000 of
// 8000 sessions.
func TestSharesAreProportionalToWeights(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	proxies := []proxy{{r.Uint64(), 1}, {r.Uint64(), 2}, {r.Uint64(), 5}}
	count := map[uint64]int{}
	for i := range 8000 {
		count[place(KeyOf("user", strconv.Itoa(i), ""), proxies)]++
	}
	for _, p := range proxies {
		require.InEpsilon(t, 1000*p.weight, count[p.hash], 0.1)
	}
}
