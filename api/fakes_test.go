package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/evidence"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/minutes"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// noon is the time of every test with fakes.
var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// rig is a server whose parts are fakes, except for the pool and the policy.
type rig struct {
	*Server
	now      time.Time
	engine   *fakeEngine
	pool     *upstream.Pool
	targets  fakeTargets
	policies *retry.Store
	changes  *changes.Changes
	metrics  *fakeMetrics
	tracker  *fakeTracker
	plugins  *fakePlugins
	reload   ReloadStatus
	log      *bytes.Buffer
}

// newRig returns a server with the proxies F1 and F2. change may be nil.
func newRig(t testing.TB, change func(*rig, *Config)) *rig {
	r := &rig{now: noon, log: &bytes.Buffer{}, metrics: &fakeMetrics{}, tracker: &fakeTracker{},
		plugins: newFakePlugins()}
	clock := func() time.Time { return r.now }
	r.metrics.reasons = minutes.NewStore(48*time.Hour, clock)
	cfg := breaker.Default()
	cfg.FailureThreshold = 1
	r.pool = upstream.NewPool(upstream.PoolConfig{Breaker: cfg, Literal: true, Now: clock})
	require.NoError(t, r.pool.Apply([]upstream.Spec{
		proxySpec(t, "F1", "http://user:secret@f1.test:8080"), proxySpec(t, "F2", "http://f2.test:8080"),
	}))
	r.policies = retry.NewStore(retry.DefaultPolicy(), clock)
	r.engine = &fakeEngine{policies: r.policies, first: "random", retry: "random"}
	r.changes = changes.New(changes.Options{Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	r.changes.Attach(changes.Parts{Engine: r.engine, Pool: r.pool, Policies: r.policies})
	r.reload = ReloadStatus{OK: true, At: noon, Faults: []string{}, Restart: []string{}}
	config := Config{
		Engine: r.engine, Pool: r.pool, Targets: &r.targets, Policies: r.policies, Metrics: r.metrics,
		Changes:  r.changes,
		Requests: r.tracker,
		Plugins:  r.plugins, Log: slog.New(slog.NewTextHandler(r.log, nil)), Now: clock, Version: "v1",
		Reload: func() ReloadStatus { return r.reload },
		Running: func() RunningConfig {
			return RunningConfig{Config: map[string]any{}, Gateway: "127.0.0.1:8888",
				Reload: r.reload}
		},
	}
	if change != nil {
		change(r, &config)
	}
	var err error
	r.Server, err = New(config)
	require.NoError(t, err)
	return r
}

func proxySpec(t testing.TB, id, url string) upstream.Spec {
	a, err := upstream.ParseAddress(url)
	require.NoError(t, err)
	return upstream.Spec{ID: id, Address: a, Weight: 1, Source: "config"}
}

// trip opens the breaker of a proxy.
func (r *rig) trip(id string) {
	lease, ok := r.pool.Snapshot().Get(id).Acquire(r.now)
	if !ok {
		panic("the proxy is not admissible")
	}
	lease.Settle(&core.Outcome{Result: core.ResultFailure, Verdict: core.Failure})
	lease.Release()
}

// apiCase is one request to the API and the expected response.
type apiCase struct {
	name   string
	method string // method; default GET
	path   string // path below /api/v1
	body   string
	header string // one field, "Name: value"; default Content-Type: application/json if there is a body
	status int
	want   string // body of the response; "" for any
}

// get returns an apiCase without a request body.
func get(path string, status int, want ...string) apiCase {
	return call("GET", path, "", status, want...)
}

// call returns an apiCase with a JSON body, unless body is "".
func call(method, path, body string, status int, want ...string) apiCase {
	return apiCase{method: method, path: path, body: body, status: status, want: strings.Join(want, "")}
}

// check sends each request and compares the response. An error response must have the form of Error.
func (r *rig) check(t *testing.T, list ...apiCase) {
	t.Helper()
	for _, x := range list {
		if x.method == "" {
			x.method = "GET"
		}
		name := strings.TrimSpace(x.name + " " + x.method + " " + x.path + " " + clipText(x.body))
		response, body := r.send(t, x.method, "/api/v1"+x.path, x.body, x.header)
		require.Equal(t, x.status, response.StatusCode, "%s: %s", name, body)
		if x.want != "" {
			require.Equal(t, x.want+"\n", string(body), name)
		}
		if x.status >= 400 {
			requireError(t, body, name)
		}
	}
}

func requireError(t require.TestingT, body []byte, name string) {
	var e struct {
		Error, Message string
		Details        any
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&e), "%s: %s", name, body)
	require.Regexp(t, `^[a-z0-9_]+$`, e.Error, name)
	require.NotEmpty(t, e.Message, name)
}

// send sends a request with the Host localhost.
func (r *rig) send(t require.TestingT, method, path, body string, headers ...string) (*http.Response, []byte) {
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path)
	if body != "" && !slices.ContainsFunc(headers,
		func(h string) bool { return strings.HasPrefix(h, "Content-Type:") }) {
		headers = append(headers, "Content-Type: application/json")
	}
	for _, h := range headers {
		if h != "" {
			head += h + "\r\n"
		}
	}
	return roundTrip(t, r.Server, method, head+fmt.Sprintf("Content-Length: %d\r\n", len(body)), body)
}

// roundTrip serves one request on a connection in memory. head lacks the empty line at its end.
func roundTrip(t require.TestingT, s *Server, method, head, body string) (*http.Response, []byte) {
	c := &memoryConn{}
	c.in.WriteString(head + "Connection: close\r\n\r\n" + body)
	s.app.Handler()                 // builds the tree of routes
	_ = s.app.Server().ServeConn(c) // an error here is also in the response
	response, err := http.ReadResponse(bufio.NewReader(&c.out), &http.Request{Method: method})
	require.NoError(t, err, "%q", head)
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err, "%q", head)
	return response, content
}

// memoryConn is a client connection in memory. It has the client's bytes and records the server's bytes.
type memoryConn struct {
	net.Conn
	in, out bytes.Buffer
}

func (c *memoryConn) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *memoryConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

// fakeEngine returns the field result for every call.
type fakeEngine struct {
	draining     bool
	first, retry string
	judge        string
	resting      []ban.Pair
	avoided      []ban.Pair
	banned       []ban.Pair
	tests        map[string]fakeTest // by id of the proxy
	rules        *rules.Set
	policies     *retry.Store
	calls        []engine.Call
	ctx          context.Context // context of the last call
	result       *engine.Result
	err          error
	// do replaces Do, if it is not nil.
	do func(context.Context, engine.Call) (*engine.Result, error)
}

var _ Engine = (*fakeEngine)(nil)

func (e *fakeEngine) Draining() bool { return e.draining }

func (e *fakeEngine) Users() []access.DailyUsage {
	return []access.DailyUsage{{Name: "ann", InFlight: 1, Requests: 20, Bytes: 3000}}
}

func (e *fakeEngine) UntilNextDay(now time.Time) time.Duration {
	var days *share.DayClock
	return days.UntilNextDay(now)
}

func (e *fakeEngine) Do(ctx context.Context, call engine.Call) (*engine.Result, error) {
	if e.do != nil {
		return e.do(ctx, call)
	}
	e.ctx = ctx
	e.calls = append(e.calls, call)
	if call.OnBegin != nil && e.err == nil {
		call.OnBegin(e.result.ID)
	}
	return e.result, e.err
}

func (e *fakeEngine) Merge(o retry.Override) (*retry.Policy, error) {
	p := e.policies.Current().Merge(o)
	return &p, p.Validate(e.HasBackoff)
}

func (e *fakeEngine) HasBackoff(name string) bool { return name == "exponential" || name == "fixed" }

func (e *fakeEngine) Scorers() (first, retry string) { return e.first, e.retry }

func (e *fakeEngine) Activate(first, retry string) error {
	if first == "fixed" || retry == "fixed" {
		return errors.New("fixed is a backoff")
	}
	if first != "" {
		e.first = first
	}
	if retry != "" {
		e.retry = retry
	}
	return nil
}

func (e *fakeEngine) Rules() *rules.Set { return e.rules }

func (e *fakeEngine) Judge() string { return e.judge }

func (e *fakeEngine) ActivateJudge(name string) error {
	if name == "fixed" {
		return errors.New("fixed is a backoff")
	}
	e.judge = name
	return nil
}

func (e *fakeEngine) Costs() engine.Costs {
	t := traffic.Total{Up: 10, Down: 990, Attempts: 2, Cost: 0.5}
	return engine.Costs{Costs: upstream.Costs{
		Proxies: []upstream.Cost{{Name: "", Total: traffic.Total{Up: 5}}, {Name: "F1", Total: t}},
		Vendors: []upstream.Cost{{Name: "acme", Total: t}},
	}, Users: []upstream.Cost{{Name: "ann", Total: t}}}
}

func (e *fakeEngine) HostBans() []ban.Pair { return e.resting }

func (e *fakeEngine) Bans() []ban.Pair { return e.banned }

func (e *fakeEngine) Avoided() []ban.Pair { return e.avoided }

func (e *fakeEngine) BannedUntil(u *upstream.Upstream) (time.Duration, bool) {
	i := slices.IndexFunc(e.banned, func(p ban.Pair) bool { return p.ProxyID == u.ID() })
	if i < 0 {
		return 0, false
	}
	return e.banned[i].Until, true
}

// fakeTest is the result of a test of a proxy.
type fakeTest struct {
	upstream.CheckReport
	kind string
	err  error
}

func (e *fakeEngine) Test(_ context.Context, u *upstream.Upstream) (upstream.CheckReport, string, error) {
	f := e.tests[u.ID()]
	return f.CheckReport, f.kind, f.err
}

func (e *fakeEngine) Ban(u *upstream.Upstream, host string, d time.Duration) ban.Pair {
	p := ban.Pair{ProxyID: u.ID(), Host: host, Until: d}
	if host == "" {
		e.banned = append(e.banned, p)
	} else {
		e.resting = append(e.resting, p)
	}
	return p
}

func (e *fakeEngine) EndBan(u *upstream.Upstream, host string) bool {
	list := &e.resting
	if host == "" {
		list = &e.banned
	}
	before := len(*list)
	*list = slices.DeleteFunc(*list, func(p ban.Pair) bool { return p.ProxyID == u.ID() && p.Host == host })
	return len(*list) < before
}

func (e *fakeEngine) Describe(u *upstream.Upstream, row *core.Candidate) {
	row.Weight = u.Spec().Weight
}

type fakeTargets struct{ list []evidence.TargetView }

func (f *fakeTargets) Targets() []evidence.TargetView { return slices.Clone(f.list) }

// fakeMetrics returns its fields. It records the arguments of the last query.
type fakeMetrics struct {
	summary     metrics.Summary
	points      []metrics.SeriesPoint
	proxies     map[string]metrics.ProxyStats
	counts      map[string][]minutes.Count
	transitions []core.Transition
	truncated   bool

	reasons *minutes.Store
	recent  map[string]metrics.RecentAttempts
	window  metrics.WindowCounts

	hours int
	step  time.Duration
}

func (m *fakeMetrics) Reasons() *minutes.Store { return m.reasons }

func (m *fakeMetrics) RecentAttempts(id string) metrics.RecentAttempts { return m.recent[id] }

func (m *fakeMetrics) FailingProxies() map[string]metrics.RecentAttempts {
	all := maps.Clone(m.recent)
	maps.DeleteFunc(all, func(_ string, r metrics.RecentAttempts) bool { return !r.IsFailing() })
	return all
}

func (m *fakeMetrics) ForgetRecentAttempts(id string) { delete(m.recent, id) }

func (m *fakeMetrics) CountsWithin(time.Duration) metrics.WindowCounts { return m.window }

func (m *fakeMetrics) Summary() metrics.Summary { return m.summary }

func (m *fakeMetrics) Series(hours int, step time.Duration) []metrics.SeriesPoint {
	m.hours, m.step = hours, step
	return m.points
}

func (m *fakeMetrics) ByProxy(hours int) map[string]metrics.ProxyStats {
	m.hours = hours
	return m.proxies
}

func (m *fakeMetrics) Counts(proxyID string, _ int) []minutes.Count { return m.counts[proxyID] }

func (m *fakeMetrics) Transitions(hours int) (list []core.Transition, truncated bool) {
	m.hours = hours
	return m.transitions, m.truncated
}

func (m *fakeMetrics) RetentionHours() int { return 48 }

func (m *fakeMetrics) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "scrape") })
}

// fakeTracker has the requests in the field list. It records the arguments of the last List.
type fakeTracker struct {
	list   []metrics.Request
	losses []metrics.Loss
	state  string
	limit  int
}

func (f *fakeTracker) Losses(time.Time) []metrics.Loss { return f.losses }

func (f *fakeTracker) List(state string, limit int) []metrics.Request {
	f.state, f.limit = state, limit
	return f.list
}

func (f *fakeTracker) Get(id core.RequestID) (metrics.Request, bool) {
	for _, r := range f.list {
		if r.ID == id {
			return r, true
		}
	}
	return metrics.Request{}, false
}

// fakePlugins is a registry with a scorer, random, and a backoff, fixed. If err is not nil, every method
// returns it.
type fakePlugins struct {
	all  map[string]plugins.Info
	err  error
	puts []upload

	refuse error // error of Submit
	slow   bool  // uploads end when end is called
	end    func()
	last   *plugins.Upload

	rank core.RankRequest    // request of the last TestScorer
	row  core.Candidate      // first candidate of the last TestScorer
	wait core.BackoffRequest // request of the last TestBackoff

	judged   []core.JudgeRequest // requests of all TestJudge
	excerpts []core.Excerpt
}

func newFakePlugins() *fakePlugins {
	return &fakePlugins{all: map[string]plugins.Info{
		"fixed":  {Name: "fixed", Kind: wasmhost.Backoff, Source: plugins.SourceBuiltin, State: plugins.StateReady},
		"judge":  {Name: "judge", Kind: wasmhost.Judge, Source: plugins.SourceBuiltin, State: plugins.StateReady},
		"random": {Name: "random", Kind: wasmhost.Scorer, Source: plugins.SourceBuiltin, State: plugins.StateReady},
		"broken": {Name: "broken", Source: plugins.SourceAPI, State: plugins.StateFailed,
			LastError: "it does not load"},
	}}
}

func (f *fakePlugins) List() []plugins.Info {
	return []plugins.Info{f.all["broken"], f.all["fixed"], f.all["random"]}
}

func (f *fakePlugins) Get(name string) (plugins.Info, error) {
	i, ok := f.all[name]
	if !ok {
		return i, fmt.Errorf("plugin %q %w", name, core.ErrNotFound)
	}
	return i, nil
}

func (f *fakePlugins) Submit(name string, code []byte, config map[string]any, _, _ bool) (*plugins.Upload, error) {
	f.puts = append(f.puts, upload{name, code, config})
	if f.refuse != nil {
		return nil, f.refuse
	}
	u, end := plugins.NewUpload("7", name, "sum", noon)
	f.end = func() { end(plugins.Info{Name: name}, f.err, noon) }
	f.last = u
	if !f.slow {
		f.end()
	}
	return u, nil
}

func (f *fakePlugins) Configure(name string, changes map[string]any, _ bool) (*plugins.Upload, error) {
	return f.Submit(name, nil, changes, true, true)
}

func (f *fakePlugins) Upload(id string) (*plugins.Upload, error) {
	if f.last == nil || id != f.last.ID() {
		return nil, fmt.Errorf("upload %q %w", id, core.ErrNotFound)
	}
	return f.last, nil
}

func (f *fakePlugins) Delete(name string, inUse func(string) string) error {
	if f.err == nil && inUse(name) != "" {
		return fmt.Errorf("plugin %q is in use as %s: %w", name, inUse(name), core.ErrConflict)
	}
	return f.err
}

func (f *fakePlugins) Log(name string, afterNumber uint64) ([]output.Line, error) {
	if _, err := f.Get(name); err != nil {
		return nil, err
	}
	all := []output.Line{
		{Number: 1, At: noon, Level: wasmhost.LevelInfo, Text: "hello"},
		{Number: 2, At: noon, Level: wasmhost.LevelError, Text: "no spoon"},
	}
	return all[min(afterNumber, 2):], nil
}

func (f *fakePlugins) RollBack(name string) (plugins.Info, error) {
	return plugins.Info{Name: name}, f.err
}
func (f *fakePlugins) Release(name string) (plugins.Info, error) {
	return plugins.Info{Name: name}, f.err
}

// TestScorer uses the weights as scores.
func (f *fakePlugins) TestScorer(_ string, c core.Candidates) ([]float64, error) {
	rows := make([]core.Candidate, c.Len())
	c.Fill(&f.rank, rows)
	f.row = rows[0]
	scores := make([]float64, len(rows))
	for i := range rows {
		scores[i] = rows[i].Weight
	}
	return scores, f.err
}

// TestJudge rules each response with a body as a ban.
func (f *fakePlugins) TestJudge(
	_ string, sample func(*core.ExcerptSpec) (*core.JudgeRequest, *core.Excerpt),
) (core.Ruling, error) {
	r, e := sample(&core.ExcerptSpec{Body: 5, Fields: []string{"server"}})
	f.judged, f.excerpts = append(f.judged, *r), append(f.excerpts, *e)
	if len(e.Body) > 0 {
		return core.Ruling{Kind: core.RulingBanned, BanTime: 90 * time.Second}, f.err
	}
	return core.Ruling{}, f.err
}

func (f *fakePlugins) TestBackoff(_ string, q *core.BackoffRequest) (float64, error) {
	f.wait = *q
	return q.BaseDelay * q.Retry, f.err
}
