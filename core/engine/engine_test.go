package engine_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// rotation stands in for the plugins, which core does not know.
type rotation struct{}

func (rotation) Scorer(string, string) (core.Scorer, error)  { return rotation{}, nil }
func (rotation) Backoff(string) (core.Backoff, error)        { return rotation{}, nil }
func (rotation) Delay(*core.BackoffRequest) (float64, error) { return 0.001, nil }

func (rotation) Score(c core.Candidates, scores []float64) error {
	var q core.RankRequest
	rows := make([]core.Candidate, c.Len())
	c.Fill(&q, rows)
	for i := range rows {
		scores[i] = -rows[i].Rotation
	}
	return nil
}

func newEngine(t interface{ Fatal(...any) }, dial func(context.Context, string, string) (net.Conn, error), proxies ...string) *engine.Engine {
	cfg := engine.Config{
		Retry: retry.DefaultPolicy(), Breaker: breaker.Default(), AttemptTimeout: time.Second, BodyIdle: time.Second,
		First: "a", Again: "a", MaxCandidates: 256,
	}
	cfg.Gateway.ReplayLimit = 1 << 20
	for _, p := range proxies {
		a, err := upstream.ParseAddress(p)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Proxies = append(cfg.Proxies, upstream.Spec{Address: a})
	}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}, Log: slog.New(slog.DiscardHandler), Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Nothing but the proxies is ever dialled, and no target's name resolved.
func TestOnlyProxiesAreDialled(t *testing.T) {
	var mu sync.Mutex
	dialled := map[string]bool{}
	var lookups atomic.Int64
	system := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		lookups.Add(1)
		return nil, fmt.Errorf("no name is to be resolved")
	}}
	defer func() {
		require.Zero(t, lookups.Load(), "a name was resolved")
		net.LookupHost("target.example")
		require.NotZero(t, lookups.Load(), "the trap would have seen it")
		net.DefaultResolver = system
	}()
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		dialled[address] = true
		mu.Unlock()
		return nil, fmt.Errorf("refused")
	}
	e := newEngine(t, dial, "http://10.0.0.1:1", "https://10.0.0.2:2", "socks5://10.0.0.3:3", "socks5h://u:p@10.0.0.4:4")
	defer e.Shutdown(context.Background())
	client := &http.Client{Transport: e.Transport()}
	for range 4 {
		for _, target := range []string{"http://target.example/", "https://target.example/"} {
			_, err := client.Get(target)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "u:p")
		}
	}
	require.Subset(t, []string{"10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3", "10.0.0.4:4"}, keys(dialled))
	require.Len(t, dialled, 4)
}

func keys(m map[string]bool) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}

func ExampleEngine_Transport() {
	// A proxy that answers for the origin itself.
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello from ", r.Host) }))

	e := newEngine(nil, nil, "http://127.0.0.1:1", "http://"+l.Addr().String()) // the first refuses
	defer e.Shutdown(context.Background())
	client := &http.Client{Transport: e.Transport()}
	r, err := client.Get("http://example.org/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	fmt.Println(string(body), r.Header.Get("X-Whirlpool-Attempts"))
	// Output: hello from example.org 2
}
