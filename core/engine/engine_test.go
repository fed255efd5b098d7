package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/gateway"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// rotation is a set of plugins for these tests, because core must not import plugins.
type rotation struct{ coretest.Rotation }

func (rotation) Scorer(string, string) (core.Scorer, error)  { return rotation{}, nil }
func (rotation) Backoff(string) (core.Backoff, error)        { return rotation{}, nil }
func (rotation) Delay(*core.BackoffRequest) (float64, error) { return 0.001, nil }

func newEngine(t interface{ Fatal(...any) }, dial func(context.Context, string, string) (net.Conn, error),
	proxies ...string) *engine.Engine {
	cfg := engine.DefaultConfig()
	cfg.Reachability = false                                    // the tests count the calls of dial, and make them fail
	cfg.AttemptTimeout, cfg.BodyIdle = time.Minute, time.Minute // no busy machine needs so long
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

// The gateway dials only proxies, and resolves no name of a target.
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
	e := newEngine(t, dial, "http://10.0.0.1:1", "https://10.0.0.2:2", "socks5://10.0.0.3:3",
		"socks5h://u:p@10.0.0.4:4")
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

// The Config of a Go program is checked like a file. If it changes the policy, the new policy is in force.
func TestConfigsOfPrograms(t *testing.T) {
	for key, change := range map[string]func(*engine.Config){
		"retry.max_attempts":       func(c *engine.Config) { c.Retry.MaxAttempts = 11 },
		"retry.retry_status_codes": func(c *engine.Config) { c.Retry.RetryStatusCodes = []int{399} },
		"breaker":                  func(c *engine.Config) { c.Breaker.FailureThreshold = 0 },
		"timeouts.attempt":         func(c *engine.Config) { c.AttemptTimeout = 0 },
		"timeouts.body_idle":       func(c *engine.Config) { c.BodyIdle = -1 },
		"selection.memory":         func(c *engine.Config) { c.Memory = -1 },
		"selection.judge":          func(c *engine.Config) { c.Judge = "nope" },
		"health.url":               func(c *engine.Config) { c.Health.URL = "ftp://a" },
		"health.interval":          func(c *engine.Config) { c.Health.URL, c.Health.Interval = "http://a", 0 },
		"selection.tier_attempts":  func(c *engine.Config) { c.TierAttempts = 0 },
		"limits[1].rate": func(c *engine.Config) {
			c.Limits = []limit.Entry{{Limit: limit.Limit{Rate: 1}}, {Limit: limit.Limit{Rate: -1}}}
		},
		"intercept.exclude[1]": func(c *engine.Config) { c.Intercept.Exclude = []string{"*.a", "http://a"} },
		"rules[0].then.intercept": func(c *engine.Config) {
			c.Rules = []rules.Rule{{When: rules.Conditions{Hosts: []string{"*"}},
				Then: rules.Actions{Routing: rules.Routing{Intercept: true}}}}
		},
		"queue.max_waiting": func(c *engine.Config) { c.Queue.MaxWaiting = -1 },
		"egress.deny[1]":    func(c *engine.Config) { c.Egress.Deny = []string{"a", "10.0.0.1/8"} },
		"egress.default":    func(c *engine.Config) { c.Egress.Default = "none" },
		"queue.max_wait":    func(c *engine.Config) { c.Queue.MaxWait = -1 },
		"gateway.users[0].priority": func(c *engine.Config) {
			c.Gateway.Users = []gateway.User{{Name: "a", Limits: access.Limits{Priority: core.PriorityLow + 1}}}
		},
	} {
		cfg := engine.DefaultConfig()
		change(&cfg)
		_, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
		var bad *core.KeyError
		require.ErrorAs(t, err, &bad, key)
		require.Equal(t, key, bad.Key)
	}
	cfg := engine.DefaultConfig()
	cfg.Retry.RetryStatusCodes = []int{429}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	require.True(t, e.Policies().Current().RetriesStatus(429))
	require.False(t, e.Policies().Current().RetriesStatus(503))
}

// A reload without a change of the retry budget keeps its balance.
func TestAReloadKeepsTheBudget(t *testing.T) {
	var fail atomic.Bool
	proxy := coretest.Serve(t, func(c net.Conn) {
		http.ReadRequest(bufio.NewReader(c))
		status := "200 OK"
		if fail.Load() {
			status = "503 No"
		}
		io.WriteString(c, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	address, err := upstream.ParseAddress("http://" + proxy)
	require.NoError(t, err)
	cfg := engine.DefaultConfig()
	cfg.Proxies = []upstream.Spec{{Address: address}}
	cfg.Budget = retry.BudgetConfig{Ratio: 0.5}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	attempts := func() string {
		r, err := e.Transport().RoundTrip(get(t, "http://a.test/"))
		require.NoError(t, err)
		return r.Header.Get("X-Whirlpool-Attempts")
	}
	for range 4 { // deposits for two retries
		require.Equal(t, "1", attempts())
	}
	require.NoError(t, e.Reload(cfg, rotation{}))
	fail.Store(true)
	require.Equal(t, "3", attempts())
}

// If a reload permits it, requests wait for a place at a proxy. A request gets a place when an attempt has
// ended, or when max_in_flight is raised.
func TestAReloadLetsRequestsWait(t *testing.T) {
	proxy := coretest.Serve(t, func(c net.Conn) {
		http.ReadRequest(bufio.NewReader(c))
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	})
	address, err := upstream.ParseAddress("http://" + proxy)
	require.NoError(t, err)
	cfg := engine.DefaultConfig()
	cfg.Proxies = []upstream.Spec{{ID: "p", Address: address, Extras: &upstream.Extras{MaxInFlight: 1}}}
	cfg.Queue.MaxWaiting = 0
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	u := e.Pool().Snapshot().Get("p")
	lease, ok := u.Acquire(time.Now())
	require.True(t, ok)
	do := func() *engine.Result {
		r, err := e.Do(t.Context(), engine.Call{Request: get(t, "http://a.test/"), Priority: core.PriorityLow})
		require.NoError(t, err)
		if r.Response != nil {
			r.Response.Body.Close()
		}
		return r
	}
	require.Equal(t, core.FinalAllBusy, do().Final)

	cfg.Queue = queue.Config{MaxWaiting: 1, MaxWait: time.Hour}
	require.NoError(t, e.Reload(cfg, rotation{}))
	places := func(n int) {
		err := e.Pool().UpdateAll(upstream.Updates{"p": func(s *upstream.Spec) error {
			s.Extras = &upstream.Extras{MaxInFlight: n}
			return nil
		}})
		require.NoError(t, err)
	}
	for _, allow := range []func(){func() { places(2) }, lease.Release} {
		places(1)
		final := make(chan core.Final)
		go func() { final <- do().Final }()
		require.Eventually(t, func() bool {
			list := e.Tracker().List("queued", 10)
			return len(list) == 1 && list[0].Priority == core.PriorityLow
		}, time.Minute, time.Millisecond)
		require.Equal(t, core.FinalAllBusy, do().Final, "the queue is full")
		allow()
		require.Equal(t, core.FinalSuccess, <-final)
	}
	list := e.Tracker().List("done", 1)
	require.Positive(t, list[0].Queued)
	require.Zero(t, u.InFlight())
}

func TestAReloadChangesTheProxiesOfMetrics(t *testing.T) {
	cfg := engine.DefaultConfig()
	cfg.Proxies = []upstream.Spec{{ID: "p", Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"}}}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	scrape := func() string {
		w := httptest.NewRecorder()
		e.Metrics().Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return w.Body.String()
	}
	require.Contains(t, scrape(), `whirlpool_circuit_breaker_state{proxy_id="p"} 0`)
	cfg.MetricProxies = 0
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.NotContains(t, scrape(), `{proxy_id="p"}`)
	require.Contains(t, scrape(), `whirlpool_proxy_in_flight{proxy_id="other"} 0`)
}

// A new selection.memory applies to attempts made before the reload.
func TestAReloadChangesTheMemory(t *testing.T) {
	var passed atomic.Int64
	start := time.Now()
	cfg := engine.DefaultConfig()
	cfg.Proxies = []upstream.Spec{{ID: "p", Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"}}}
	now := func() time.Time { return start.Add(time.Duration(passed.Load())) }
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}, Now: now})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	u := e.Pool().Snapshot().Get("p")
	lease, ok := u.Acquire(now())
	require.True(t, ok)
	lease.Settle(&core.Outcome{Verdict: core.Success})
	lease.Release()
	passed.Store(int64(5 * time.Minute))
	e.Pool().Sweep()
	require.Equal(t, 1, u.Stats().Samples)
	cfg.Memory = time.Minute
	require.NoError(t, e.Reload(cfg, rotation{}))
	e.Pool().Sweep()
	require.Zero(t, u.Stats().Samples)
}

// A reload changes the regions of exit addresses.
func TestAReloadChangesTheRegions(t *testing.T) {
	cfg := engine.DefaultConfig()
	cfg.Proxies = []upstream.Spec{{ID: "p", Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"}}}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	u := e.Pool().Snapshot().Get("p")
	u.SetLastCheck(&upstream.CheckReport{Passed: true, Exit: netip.MustParseAddr("192.0.2.1")})
	cfg.Locate = func(netip.Addr) string { return "us" }
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Equal(t, "us", u.Region())
	cfg.Locate = nil
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Empty(t, u.Region())
}

// A reload changes the limits of all proxies.
func TestAReloadChangesTheLimits(t *testing.T) {
	cfg := engine.DefaultConfig()
	cfg.Limits = []limit.Entry{{Limit: limit.Limit{Rate: 1}}, {Host: "a.test", Limit: limit.Limit{Rate: 1}}}
	cfg.Proxies = []upstream.Spec{
		{ID: "p", Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"}},
		{ID: "own", Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"},
			Extras: &upstream.Extras{Rate: 3}},
	}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	pool := e.Pool().Snapshot()
	require.Equal(t, limit.Limit{Rate: 1}, pool.Get("p").Limit())
	require.Equal(t, limit.Limit{Rate: 3}, pool.Get("own").Limit())
	cfg.Limits = []limit.Entry{{Limit: limit.Limit{Rate: 2, BytesPerDay: 5}}}
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Equal(t, limit.Limit{Rate: 2, BytesPerDay: 5}, pool.Get("p").Limit())
	require.Equal(t, limit.Limit{Rate: 3, BytesPerDay: 5}, pool.Get("own").Limit())
	cfg.Limits = nil
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Nil(t, pool.Get("p").Usage())
}

// A reload turns health checks on and off.
func TestAReloadChangesHealthChecks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) // a proxy that responds itself
	cfg := engine.DefaultConfig()
	cfg.Proxies = []upstream.Spec{{ID: "p", Address: upstream.Address{Scheme: upstream.HTTP, Host: l.Addr().String()}}}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	u := e.Pool().Snapshot().Get("p")
	require.Nil(t, u.LastCheck())
	cfg.Health.URL = "http://check.test/"
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Eventually(t, func() bool { return u.LastCheck() != nil && u.LastCheck().Passed }, time.Minute,
		time.Millisecond)
	cfg.Health.URL = ""
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Eventually(t, func() bool { return u.LastCheck() == nil }, time.Minute, time.Millisecond)
}

// X-Whirlpool-Region and Call.Region are checked before the first attempt.
func TestWantedRegions(t *testing.T) {
	cfg := engine.DefaultConfig()
	cfg.Proxies = []upstream.Spec{{ID: "p", Region: "EU",
		Address: upstream.Address{Scheme: upstream.HTTP, Host: "a.test:1"}}}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	send := func(region string) error {
		q := get(t, "http://a.test/")
		q.Header.Set("X-Whirlpool-Region", region)
		_, err := e.Transport().RoundTrip(q)
		return err
	}
	var bad *engine.RequestError
	require.ErrorAs(t, send("US;loose"), &bad)
	require.ErrorContains(t, bad, "loose")
	var refused *engine.Error
	require.ErrorAs(t, send("US;strict"), &refused)
	require.Equal(t, core.FinalNoProxyInRegion, refused.Final)
	require.Equal(t, "no_proxy_in_region", refused.Failure.Code)
	require.Zero(t, refused.Failure.RetryAfter)
	_, err = e.Do(t.Context(), engine.Call{Request: get(t, "http://a.test/"), RegionStrict: true})
	require.ErrorAs(t, err, &bad)
	require.Zero(t, e.Pool().Snapshot().Get("p").Stats().Uses)
}

// X-Whirlpool-Priority and Call.Priority are checked before the first attempt.
func TestPrioritiesOfCalls(t *testing.T) {
	e, err := engine.New(engine.DefaultConfig(), engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	q := get(t, "http://a.test/")
	q.Header.Set("X-Whirlpool-Priority", "urgent")
	_, err = e.Transport().RoundTrip(q)
	var bad *engine.RequestError
	require.ErrorAs(t, err, &bad)
	require.ErrorContains(t, bad, "high, normal or low")
	_, err = e.Do(t.Context(), engine.Call{Request: get(t, "http://a.test/"), Priority: core.PriorityLow + 1})
	require.ErrorAs(t, err, &bad)
	q.Header.Set("X-Whirlpool-Priority", "low")
	_, err = e.Transport().RoundTrip(q)
	require.ErrorContains(t, err, "pool_empty")
}

// without is a set of plugins from which one has been removed.
type without struct {
	rotation
	name string
}

func (w without) Scorer(name, fallback string) (core.Scorer, error) {
	if name == w.name {
		return nil, core.ErrNotFound
	}
	return w.rotation.Scorer(name, fallback)
}

func (w without) Backoff(name string) (core.Backoff, error) {
	if name == w.name {
		return nil, core.ErrNotFound
	}
	return w.rotation.Backoff(name)
}

// If an activated plugin does not exist any more, a reload replaces it by the one in the file and logs this
// once. If it still exists, it stays.
func TestAReloadWithoutTheActivatedPlugin(t *testing.T) {
	var log bytes.Buffer
	cfg := engine.DefaultConfig()
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	require.NoError(t, e.Activate("mine", ""))
	_, err = e.Policies().Put(func(p retry.Policy) (retry.Policy, error) {
		p.BackoffStrategy = "patience"
		return p, p.Validate(e.HasBackoff)
	})
	require.NoError(t, err)
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Empty(t, log.String())
	require.Equal(t, "mine", e.Config().FirstScorer)

	require.NoError(t, e.Reload(cfg, without{name: "mine"}))
	require.Contains(t, log.String(), `msg="a plugin in use has been removed" for=first plugin=mine now=`+
		cfg.FirstScorer)
	require.Equal(t, cfg.FirstScorer, e.Config().FirstScorer)
	require.Equal(t, "patience", e.Policies().Current().BackoffStrategy)
	log.Reset()

	require.NoError(t, e.Reload(cfg, without{name: "patience"}))
	require.Contains(t, log.String(), `for=backoff plugin=patience now=exponential`)
	log.Reset()
	require.NoError(t, e.Reload(cfg, without{name: "patience"}))
	require.Empty(t, log.String())
}

// body is a request body that records whether it was closed.
type body struct {
	io.Reader
	closed atomic.Bool
}

func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

// As http.RoundTripper requires, the request's body is always closed. The number of bytes sent is the
// Content-Length.
func TestTheTransportsBodies(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	e := newEngine(t, nil, "http://"+l.Addr().String())
	defer e.Shutdown(context.Background())
	const large = 3 << 20 // more than is kept for replay
	for _, c := range []struct {
		size, said int64
		bad        string
	}{
		{size: 10, said: 10}, {size: large, said: large}, {size: large, said: -1},
		{size: large, said: large + 1, bad: "Content-Length"}, {size: large, said: large - 1, bad: "Content-Length"},
		{size: large, said: 10, bad: "Content-Length"},
	} {
		b := &body{Reader: io.LimitReader(zeros{}, c.size)}
		q, err := http.NewRequest("PUT", "http://example.org/", b)
		require.NoError(t, err)
		q.ContentLength = c.said
		r, err := e.Transport().RoundTrip(q)
		if c.bad != "" {
			require.ErrorContains(t, err, c.bad)
		} else {
			require.NoError(t, err)
			got, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			require.Equal(t, strconv.FormatInt(c.size, 10), string(got))
			r.Body.Close()
		}
		require.True(t, b.closed.Load(), "%+v", c)
	}
	require.Zero(t, e.Pool().Snapshot().All[0].Breaker().Snapshot().FailureCount, "no fault of the proxy's")

	b := &body{Reader: zeros{}}
	q, err := http.NewRequest("PUT", "ftp://example.org/", b)
	require.NoError(t, err)
	_, err = e.Transport().RoundTrip(q)
	require.Error(t, err)
	require.True(t, b.closed.Load())
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A response to HEAD has the Content-Length of the response to a GET.
func TestAResponseToHEADKeepsTheLength(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
	}))
	e := newEngine(t, nil, "http://"+l.Addr().String())
	defer e.Shutdown(context.Background())
	r, err := (&http.Client{Transport: e.Transport()}).Head("http://example.org/")
	require.NoError(t, err)
	defer r.Body.Close()
	require.EqualValues(t, 5, r.ContentLength)
	require.Equal(t, "5", r.Header.Get("Content-Length"))
}

// A proxy closes each connection after one response, without stating that in the response. It closes every
// second connection at once, so the next request may detect that before it is sent. It closes the others when
// the next request arrives. Each of these requests is a replay and not a retry, and nothing is charged to the
// proxy.
func TestAProxyThatClosesAfterEachResponse(t *testing.T) {
	var got atomic.Int64
	e := newEngine(t, nil, "http://"+coretest.Serve(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			n := got.Add(1)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if n%2 == 0 {
				c.Read(make([]byte, 1))
			}
		}
	}))
	defer e.Shutdown(context.Background())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go e.Serve(l)
	defer l.Close()
	gateway := &url.URL{Scheme: "http", Host: l.Addr().String()}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(gateway)}}
	defer client.CloseIdleConnections()
	const requests = 300
	for range requests {
		r, err := client.Get("http://a.test/")
		require.NoError(t, err)
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		r.Body.Close()
		require.Equal(t, "ok", string(body))
		require.Equal(t, "1", r.Header.Get("X-Whirlpool-Attempts"))
	}
	require.EqualValues(t, requests, got.Load(), "each request arrived once")
	s := e.Metrics().Summary()
	require.Positive(t, s.Replays)
	require.Zero(t, s.Retries)
	require.Equal(t, requests+s.Replays, s.Attempts)
	require.Zero(t, e.Pool().Snapshot().All[0].Breaker().Snapshot().FailureCount)
}

// After a panic of OnBegin, the request is not in flight any more.
func TestAPanicOfOnBegin(t *testing.T) {
	e, err := engine.New(engine.DefaultConfig(), engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	require.Panics(t, func() {
		e.Do(t.Context(), engine.Call{Request: get(t, "http://a.test/"), OnBegin: func(core.RequestID) {
			require.Equal(t, 1, e.Tracker().InFlight())
			panic("fault")
		}})
	})
	require.Zero(t, e.Tracker().InFlight())
}
