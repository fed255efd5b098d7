package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/state"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	adminKey  = "Bearer admin-key-0123456789"
	readerKey = "Bearer reader-key-0123456789"
)

// TestResponses compares the response of every endpoint with testdata/responses.golden, byte by byte. The
// parts of the gateway are real, the proxies are in memory, and time is virtual.
func TestResponses(t *testing.T) {
	g := &golden{t: t, doc: newDocument(t)}
	g.server(t) // the first server of Fiber and fasthttp starts goroutines that never end
	synctest.Test(t, func(t *testing.T) { g.record(t) })
	g.doc.requireAllMet(t)
	if *update {
		writeExamples(t, g.doc.chooseExamples())
	} else {
		g.doc.requireTrue(t)
	}
	path := filepath.Join("testdata", "responses.golden")
	if *update {
		require.NoError(t, os.WriteFile(path, g.out.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	wanted, got := strings.Split(string(want), "\n\n"), strings.Split(g.out.String(), "\n\n")
	for i := range min(len(wanted), len(got)) {
		require.Equal(t, wanted[i], got[i])
	}
	require.Len(t, got, len(wanted))
}

type golden struct {
	doc    *document
	t      *testing.T
	out    bytes.Buffer
	served *Server
}

// proxyDial connects to a proxy in memory: p1 responds with 503, p2 with 200, and p3 cannot be reached.
func proxyDial(_ context.Context, _, address string) (net.Conn, error) {
	if strings.HasPrefix(address, "p3") {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		in := bufio.NewReader(theirs)
		for {
			q, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(q.Body)
			time.Sleep(20 * time.Millisecond)
			status, text := "200 OK", "hello "+string(body)
			if strings.HasPrefix(address, "p1") {
				status, text = "503 Service Unavailable", "busy"
			}
			if strings.HasSuffix(q.URL.Path, "/binary") {
				text = "\xff\x00\x01"
			}
			fmt.Fprintf(theirs, "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", status,
				len(text), text)
		}
	}()
	return ours, nil
}

func spec(t *testing.T, id, url string, change func(*upstream.Spec)) upstream.Spec {
	a, err := upstream.ParseAddress(url)
	require.NoError(t, err)
	s := upstream.Spec{ID: id, Address: a, Weight: 1, Source: "config"}
	if change != nil {
		change(&s)
	}
	return s
}

func (g *golden) server(t *testing.T) *engine.Engine {
	log := slog.New(slog.DiscardHandler)
	reg, err := plugins.New(plugins.Options{Log: log})
	require.NoError(t, err)
	t.Cleanup(reg.Close)
	cfg := engine.DefaultConfig()
	cfg.Gateway.Users = []access.User{{Name: "ann", Password: "canary", Limits: access.Limits{
		Priority: core.PriorityLow, Override: retry.OverrideCapped, Allow: []string{"*.example.com:443"},
		Regions: []string{"EU"}, MaxInFlight: 5, RequestsPerDay: 100, BytesPerDay: 1 << 20,
	}}, {Name: "bob", Password: "canary"}}
	cfg.Proxies = []upstream.Spec{
		spec(t, "F1", "http://user:secret@p1.test:8080", func(s *upstream.Spec) {
			s.Region, s.Weight, s.Cost = "EU", 2, 0.5
			s.Extras = &upstream.Extras{MaxInFlight: 7, Metadata: map[string]string{"rack": "a"},
				OwnErrors: []upstream.OwnError{{Status: 403, Body: "blocked"}}}
		}),
		spec(t, "F2", "http://p2.test:8080", nil),
	}
	cfg.Breaker.FailureThreshold, cfg.Literal = 3, true
	cfg.Retry.BackoffStrategy, cfg.Retry.BaseDelay = "fixed", 0.5
	require.NoError(t, cfg.Retry.Validate(func(string) bool { return true }))
	cfg.FirstScorer, cfg.RetryScorer = "round_robin", "round_robin"
	random := uint64(0)
	e, err := engine.New(cfg, engine.Options{Plugins: reg, Log: log, Dial: proxyDial,
		Rand: func() uint64 { random++; return random }})
	require.NoError(t, err)
	t.Cleanup(func() { // runs within the bubble
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		e.Shutdown(ctx)
	})
	store, _, err := state.OpenStore(state.OS{}, t.TempDir(), "changes", time.Now)
	require.NoError(t, err)
	t.Cleanup(func() { store.Close() })
	kept := changes.New(changes.Options{Records: store, Now: time.Now, Log: log})
	require.NoError(t, kept.Configure(changes.Configuration{Proxies: cfg.Proxies, Policy: cfg.Retry},
		func([]upstream.Spec) error { return nil }))
	kept.Attach(changes.Parts{Engine: e, Pool: e.Pool(), Policies: e.Policies()})
	status := ReloadStatus{OK: true, At: time.Now().UTC(), Faults: []any{}, Restart: []string{"log.format"}}
	g.served, err = New(Config{
		Engine: e, Pool: e.Pool(), Targets: e.Pool().Ledger(), Policies: e.Policies(), Metrics: e.Metrics(),
		Requests: e.Tracker(), Changes: kept, StateDir: "/state",
		Plugins: reg, Log: log, Version: "v1",
		Running: func() RunningConfig {
			return RunningConfig{
				Config: map[string]any{"api": map[string]any{"listen": "x"}}, File: "whirlpool.toml",
				Gateway: "127.0.0.1:8888", Reload: status}
		},
		Reload: func() ReloadStatus { return status },
	})
	require.NoError(t, err)
	g.call(t, "GET", "/healthz", "")
	g.out.Reset()
	return e
}

var (
	requestID = regexp.MustCompile(`\b[0-9a-f]{16}\b`)
	moduleID  = regexp.MustCompile(`"sha256":"[0-9a-f]{64}"`)
	size      = regexp.MustCompile(`"size":[0-9]+`)
	decimals  = regexp.MustCompile(`(\.[0-9]{2})[0-9]+`)
	weights   = regexp.MustCompile(`"(evidence|needed|noise)":[0-9.e-]+|"(summary|why)":"[^"]+"`)
	spent     = regexp.MustCompile(`"spent_seconds":[0-9.e-]+`)
)

// call sends a request and records its response. It masks values that differ from run to run, or with each
// build of a module.
func (g *golden) call(t *testing.T, method, path, body string, header ...string) (status int, answer []byte) {
	r, answer := roundTrip(t, g.served, method, requestHead(method, path, "localhost", body, header...), body)
	g.doc.compare(t, method, path, body, r, answer)
	fmt.Fprintf(&g.out, "%s %s", method, requestID.ReplaceAllString(path, "ID"))
	for i := 0; i < len(header); i += 2 {
		fmt.Fprintf(&g.out, " [%s: %s]", header[i], header[i+1])
	}
	if len(body) < 1000 && utf8.ValidString(body) && !strings.ContainsAny(body, "\x00\n") {
		fmt.Fprintf(&g.out, " %s", body)
	}
	fmt.Fprintf(&g.out, "\n%d", r.StatusCode)
	for _, name := range []string{"Content-Type", "Cache-Control", "Allow", "Retry-After", "Www-Authenticate",
		"X-Content-Type-Options"} {
		if v := r.Header.Get(name); v != "" {
			fmt.Fprintf(&g.out, " [%s: %s]", name, v)
		}
	}
	masked := mask(answer)
	if len(masked) > 8000 || !bytes.HasPrefix(masked, []byte("{")) {
		masked = []byte("(not compared)")
	}
	if r.Header.Get("Content-Type") == "application/json" {
		require.True(t, bytes.HasSuffix(answer, []byte("\n")) || r.StatusCode == 304, "%s %s", method, path)
	}
	fmt.Fprintf(&g.out, "\n%s\n\n", bytes.TrimSuffix(masked, []byte("\n")))
	return r.StatusCode, answer
}

// mask replaces the values of a response that differ from run to run, or with each build of a module.
func mask(answer []byte) []byte {
	masked := moduleID.ReplaceAll(answer, []byte(`"sha256":"SUM"`))
	masked = size.ReplaceAll(masked, []byte(`"size":SIZE`))
	masked = spent.ReplaceAll(masked, []byte(`"spent_seconds":SPENT`))
	masked = weights.ReplaceAll(masked, []byte(`"$1$2":EVIDENCE`))
	masked = decimals.ReplaceAll(masked, []byte("$1"))
	return requestID.ReplaceAll(masked, []byte("ID"))
}

// writeExamples writes examples.json, with an operation on each line.
func writeExamples(t *testing.T, examples map[string]example) {
	var out bytes.Buffer
	out.WriteString("{\n")
	for i, operation := range slices.Sorted(maps.Keys(examples)) {
		if i > 0 {
			out.WriteString(",\n")
		}
		line := bytes.Buffer{}
		encoder := json.NewEncoder(&line)
		encoder.SetEscapeHTML(false)
		require.NoError(t, encoder.Encode(examples[operation]))
		fmt.Fprintf(&out, "%q: %s", operation, bytes.TrimSpace(line.Bytes()))
	}
	out.WriteString("\n}\n")
	require.NoError(t, os.WriteFile("examples.json", out.Bytes(), 0o644))
}

func requestHead(method, path, host, body string, header ...string) string {
	h := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", method, path, host, len(body))
	if body != "" && !slices.Contains(header, "Content-Type") {
		h += "Content-Type: application/json\r\n"
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] != "Host" {
			h += header[i] + ": " + header[i+1] + "\r\n"
		}
	}
	return h
}

func form(fields map[string]string, module []byte) (body, contentType string) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	_ = w.SetBoundary("boundary")
	for name, value := range fields {
		_ = w.WriteField(name, value)
	}
	if module != nil {
		f, _ := w.CreateFormFile("module", "module.wasm")
		_, _ = f.Write(module)
	}
	_ = w.Close()
	return b.String(), w.FormDataContentType()
}

func (g *golden) record(t *testing.T) {
	e := g.server(t)
	get := func(path string) []byte { _, answer := g.call(t, "GET", path, ""); return answer }
	post := func(path, body string) { g.call(t, "POST", path, body) }

	for _, path := range []string{
		"/healthz", "/readyz", "/api/v1/healthz", "/api/v1/readyz", "/api/v1", "/api/v1/openapi.json", "/",
		"/dashboard.css",
		"/main.js", "/nothing", "/api/v1/nothing", "/metrics",
	} {
		get(path)
	}

	for _, query := range []string{
		"?limit=1", "?limit=1&cursor=1-RjE", "?state=open", "?sort=-id&q=P2.test", "?sort=nope", "?nope=1",
	} {
		get("/api/v1/proxies" + query)
		get("/api/v1/circuit-breakers" + query)
	}
	get("/api/v1/audit?limit=1")
	get("/api/v1/cluster")
	get("/api/v1/cluster/breakers?limit=1")
	get("/api/v1/cluster/targets?sort=-failures")
	get("/api/v1/circuit-breakers/metrics?limit=1&sort=-timestamp")
	for _, query := range []string{"?by=vendor", "?by=state&region=EU", "?by=name", ""} {
		get("/api/v1/proxy-groups" + query)
	}

	get("/api/v1/retry/policy")
	for _, body := range []string{`{"max_attempts":2,"retry_status_codes":[429,503]}`, `{}`, `{"max_attempts":0}`,
		`{"persist":true}`,
	} {
		post("/api/v1/retry/policy/preview", body)
	}
	time.Sleep(time.Second)
	for _, body := range []string{
		`{"max_attempts":4,"timeout":30,"retry_status_codes":[503,502],"jitter":false,"failover_delay":null,` +
			`"retry_non_idempotent":true}`,
		`{"timeout":null,"base_delay":1}`, `{}`, `{"max_attempts":11}`, `{"backoff_strategy":"nope"}`, `{"nope":1}`,
		`{"jitter":1}`, `{`, `[]`,
		`{"retry_status_codes":[399]}`, `{"jitter":true,"jitter":true}`, "\"\xff\"",
	} {
		g.call(t, "PUT", "/api/v1/retry/policy", body)
	}
	g.call(t, "PUT", "/api/v1/retry/policy", "{}", "Content-Type", "text/plain")
	g.call(t, "PUT", "/api/v1/retry/policy", "{}", "Content-Encoding", "gzip")
	g.call(t, "PUT", "/api/v1/retry/policy", "{}", "Origin", "http://evil.test")
	g.call(t, "PUT", "/api/v1/retry/policy", `{"backoff_strategy":"`+strings.Repeat("x", maxJSON)+`"}`)
	changed := get("/api/v1/retry/policy")
	g.call(t, "DELETE", "/api/v1/retry/policy?persist=x", "")
	g.call(t, "DELETE", "/api/v1/retry/policy?persist=false", "")
	g.call(t, "DELETE", "/api/v1/retry/policy", "") // there is nothing to delete
	var fields map[string]any
	require.NoError(t, json.Unmarshal(changed, &fields))
	delete(fields, "updated_at")
	delete(fields, "source")
	again, err := json.Marshal(fields)
	require.NoError(t, err)
	g.call(t, "PUT", "/api/v1/retry/policy", string(again))
	g.call(t, "BREW", "/api/v1/retry/policy", "")

	get("/api/v1/proxies")
	for _, body := range []string{
		`{"url":"http://bob:hunter2@p3.test:3128","id":"F3","region":"US","weight":1.5,"cost":1,` +
			`"max_in_flight":2,"metadata":{"a":"b"},"own_error":[{"status":502,"header":"X-Proxy: no","body":"x"}]}`,
		`{"proxies":[{"url":"http://p4.test:1"},{"url":"socks5://p5.test:1","id":"five"}]}`,
		`{"url":"http://p6.test:1","id":"F1"}`,
		`{"proxies":[{"url":"http://p6.test:1","id":"x"},{"url":"http://p7.test:1","id":"x"}]}`,
		`{"url":"ftp://x"}`, `{}`, `{"url":"http://p6.test:1","id":""}`, `{"url":"http://p6.test:1","weight":0}`,
		`{"url":"http://p6.test:1","weight":-1}`,
		`{"url":"http://p6.test:1","cost":-1}`, `{"url":"http://p6.test:1","max_in_flight":-1}`,
		`{"url":"http://***@p6.test:1"}`,
		`{"proxies":[]}`, `{"proxies":[{"url":"http://p6.test:1"},{"url":"nope"}]}`,
		`{"proxies":[{"url":"http://p6.test:1","id":"metrics"}]}`,
		`{"proxies":[{"url":"http://p6.test:1","nope":1}]}`, `{"url":"http://p6.test:1","own_error":[{}]}`,
		`{"url":1}`,
		`{"proxies":[{"url":"http://p6.test:1","id":"F1"}]}`,
	} {
		post("/api/v1/proxies", body)
	}
	for _, query := range []string{"", "?format=csv", "?q=five", "?format=xml", "?limit=1"} {
		get("/api/v1/proxy-lists" + query)
	}
	const addresses = "192.0.2.9:8080\nnonsense\nhttp://p4.test:1\n192.0.2.9:8080"
	for _, query := range []string{"?dry_run=true&scheme=socks5", "?scheme=ftp", "?dry_run=x"} {
		g.call(t, "POST", "/api/v1/proxy-lists"+query, addresses, "Content-Type", "text/plain")
	}
	post("/api/v1/proxy-lists?dry_run=true", `{"proxies":[{"ip":"192.0.2.9","port":80}]}`)
	g.call(t, "POST", "/api/v1/proxy-lists", addresses, "Content-Type", "image/png")
	get("/api/v1/proxies/F3")
	get("/api/v1/proxies/nope")
	get("/api/v1/proxies/%zz")
	for _, body := range []string{`{"weight":3,"region":"AP"}`, `{"id":"other"}`, `{"id":"five","cost":2}`,
		`{"url":"http://user@p8.test:1"}`, `{"weight":0}`, `{"own_error":[{"status":1}]}`, `{`} {
		g.call(t, "PATCH", "/api/v1/proxies/five", body)
	}
	for _, body := range []string{`{"for":"10m"}`, `{"for":"1h","host":"A.test"}`, `{}`, `{"for":"1ms"}`, `{"for":5}`,
		`{"for":"25h","host":"a.test"}`, `{"for":"1h","host":"a.test:80"}`, `{"for":"1h","host":"*.test"}`,
		`{"for":"1h","host":""}`, `{"for":"1h","until":"x"}`, `[]`} {
		post("/api/v1/proxies/F1/ban", body)
	}
	post("/api/v1/proxies/nope/ban", `{"for":"10m"}`)
	get("/api/v1/proxies/F1")
	for _, host := range []string{"a.test", "b.test", "a:1", "*"} {
		get("/api/v1/targets/" + host)
	}
	for _, target := range []string{"F1/ban?host=a.test", "F1/ban?host=a.test", "F1/ban", "F1/ban", "F1/ban?host=",
		"nope/ban"} {
		g.call(t, "DELETE", "/api/v1/proxies/"+target, "")
	}
	for _, id := range []string{"F1", "F3", "nope"} {
		post("/api/v1/proxies/"+id+"/test", "")
	}
	g.call(t, "PATCH", "/api/v1/proxies/nope", `{}`)
	g.call(t, "DELETE", "/api/v1/proxies/p4.test:1?drain=maybe", "")
	g.call(t, "DELETE", "/api/v1/proxies/p4.test:1?drain=true", "")
	g.call(t, "DELETE", "/api/v1/proxies/five", "")
	g.call(t, "DELETE", "/api/v1/proxies/five", "")
	g.call(t, "DELETE", "/api/v1/proxies/F1?persist=maybe", "")
	post("/api/v1/proxies/five/restore", "")
	post("/api/v1/proxies/five/restore", "")
	post("/api/v1/proxies/five/restore?persist=maybe", "")
	g.call(t, "DELETE", "/api/v1/proxies/five", "")
	g.call(t, "PATCH", "/api/v1/proxies/F1", `{"weight":2,"persist":1}`)
	g.call(t, "PATCH", "/api/v1/proxies/F1", `{"weight":2,"persist":false}`)
	get("/api/v1/state")
	g.call(t, "DELETE", "/api/v1/state?key=policy", "")
	g.call(t, "DELETE", "/api/v1/state?key=policy", "")
	g.call(t, "DELETE", "/api/v1/state?key=", "")
	g.call(t, "DELETE", "/api/v1/state", "")
	get("/api/v1/state")

	get("/api/v1/audit?limit=2")
	g.call(t, "POST", "/api/v1/proxies/F2/ban", `{"for":"1h","host":"shop.test"}`)
	get("/api/v1/rests")
	g.call(t, "DELETE", "/api/v1/proxies/F2/ban?host=shop.test", "")

	g.waiting(t)
	for _, body := range []string{
		`{"url":"http://target.test/path?q=1"}`, `{"url":"http://target.test/binary","retry":{"max_attempts":2}}`,
		`{"url":"http://target.test/","method":"POST","headers":{"X-A":"b","Host":"other.test"},"body":"text"}`,
		`{"url":"http://target.test/","method":"POST","body_base64":"aGV5"}`,
		`{"url":"http://target.test/","region":"EU","region_strict":true,"retry":{"max_attempts":1}}`,
		`{"url":"http://target.test/","region":"US","region_strict":true,"retry":{"max_attempts":2}}`,
		`{"url":"http://target.test/","region":"nowhere","region_strict":true}`,
		`{"url":"http://target.test/","region":"EU","region_strict":true,"retry":{"max_attempts":3}}`,
		`{"url":"http://target.test/","region":"EU","region_strict":true,"retry":{"max_attempts":3}}`,
		`{"url":"/relative"}`, `{"url":"ftp://x/"}`, `{"url":"http://u:p@x/"}`,
		`{"url":"http://x/","method":"CONNECT"}`, `{"url":"http://x/","method":"A B"}`,
		`{"url":"http://x/","body":"a","body_base64":"YQ=="}`, `{"url":"http://x/","body_base64":"?"}`,
		`{"url":"http://x/","region_strict":true}`, `{"url":"http://x/","priority":"urgent"}`,
		`{"url":"http://x/","retry":{"max_attempts":0}}`, `{"url":"http://x/","headers":{"A B":"c"}}`,
		`{"url":"http://x/","headers":{"A":"c\n"}}`, `{"nope":1}`,
	} {
		post("/api/v1/request", body)
	}
	list := get("/api/v1/requests")
	var requests struct{ Requests []struct{ ID string } }
	require.NoError(t, json.Unmarshal(list, &requests))
	require.NotEmpty(t, requests.Requests)
	get("/api/v1/requests/" + requests.Requests[0].ID)
	for _, path := range []string{"/ffff", "?limit=2", "?limit=0", "?limit=x", "?limit=1&limit=2",
		"?state=done&limit=1", "?state=waiting", "?state=nope"} {
		get("/api/v1/requests" + path)
	}
	g.submitted(t)

	get("/api/v1/circuit-breakers")
	for _, path := range []string{"/F1", "/F2", "/nope", "/metrics", "/metrics?hours=1", "/metrics?hours=0",
		"/metrics?hours=169", "/metrics?hours=1&hours=2", "/metrics?hours=+1"} {
		get("/api/v1/circuit-breakers" + path)
	}
	for _, path := range []string{"", "?limit=1", "?limit=1&cursor=1", "?limit=0", "?limit=1001", "?cursor=-1",
		"?cursor=x"} {
		get("/api/v1/targets" + path)
	}
	for _, path := range []string{"", "/timeseries", "/timeseries?interval=day", "/timeseries?interval=week",
		"/timeseries?hours=x", "/by-proxy", "/by-proxy?hours=0",
		"/by-proxy?window=1h"} {
		get("/api/v1/metrics/retries" + path)
	}
	for _, path := range []string{"status", "metrics/history?window=1h", "metrics/history?proxy_id=F1",
		"metrics/history?host=target.test", "metrics/history?step=1", "targets?window=1h", "proxies/F1?window=5m",
		"targets/target.test"} {
		get("/api/v1/" + path)
	}
	post("/api/v1/circuit-breakers/F1/reset", "")
	post("/api/v1/circuit-breakers/nope/reset", "")
	get("/api/v1/circuit-breakers/metrics")

	e.Pool().SetLiteral(false)
	for range 4 {
		post("/api/v1/request", `{"url":"http://other.test/","retry":{"max_attempts":3}}`)
	}
	for _, path := range []string{"targets", "targets?limit=1", "targets?limit=1&cursor=1", "circuit-breakers/F1",
		"circuit-breakers/F2", "rests", "users", "metrics/costs", "route?url=http://other.test/",
		"route?url=ftp://x"} {
		get("/api/v1/" + path)
	}

	g.plugins(t)

	get("/api/v1/config")
	post("/api/v1/config/reload", "")
	get("/api/v1/events") // ends at once, because the connection ends
	get("/api/v1/events?type=nope")

	g.keys(t)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e.Shutdown(ctx)
	get("/readyz")
	post("/api/v1/request", `{"url":"http://target.test/"}`)
}

// submitted records requests of POST /requests.
func (g *golden) submitted(t *testing.T) {
	for _, body := range []string{
		`{"url":"http://target.test/path?q=1"}`,
		`{"url":"http://target.test/","region":"nowhere","region_strict":true}`,
	} {
		_, answer := g.call(t, "POST", "/api/v1/requests", body)
		var submitted struct{ ID string }
		require.NoError(t, json.Unmarshal(answer, &submitted))
		path := "/api/v1/requests/" + submitted.ID
		g.call(t, "GET", path+"/response", "")
		g.call(t, "DELETE", path, "")
		g.call(t, "DELETE", path, "")
	}
	g.call(t, "POST", "/api/v1/requests", `{"url":"http://x/","method":"CONNECT"}`)
	g.call(t, "POST", "/api/v1/requests", `{"url":"ftp://x/"}`)
	g.call(t, "GET", "/api/v1/requests/nope/response", "")
}

// waiting records a request that waits for its retry.
func (g *golden) waiting(t *testing.T) {
	const body = `{"url":"http://target.test/","region":"US","region_strict":true,"retry":{"max_attempts":2}}`
	done := make(chan struct{})
	go func() {
		defer close(done)
		roundTrip(g.t, g.served, "POST", requestHead("POST", "/api/v1/request", "localhost", body), body)
	}()
	time.Sleep(100 * time.Millisecond)
	g.call(t, "GET", "/api/v1/requests?state=waiting", "")
	<-done
}

func (g *golden) plugins(t *testing.T) {
	module, err := os.ReadFile("../plugins/builtin/random.wasm")
	require.NoError(t, err)
	g.call(t, "GET", "/api/v1/plugins", "")
	for _, path := range []string{"round_robin", "fixed", "nope"} {
		g.call(t, "GET", "/api/v1/plugins/"+path, "")
	}
	body, kind := form(map[string]string{"name": "mine", "config": `{}`}, module)
	g.call(t, "POST", "/api/v1/plugins", body, "Content-Type", kind)
	g.call(t, "POST", "/api/v1/plugins?name=mine", string(module), "Content-Type", "application/wasm")
	g.call(t, "POST", "/api/v1/plugins", string(module), "Content-Type", "application/wasm")
	g.call(t, "POST", "/api/v1/plugins?name=bad", "nonsense", "Content-Type", "application/wasm")
	g.call(t, "POST", "/api/v1/plugins?name=NO", string(module), "Content-Type", "application/wasm")
	g.call(t, "POST", "/api/v1/plugins", "{}")
	for _, fields := range []map[string]string{{"name": "x", "config": "[]"}, {"name": "x", "settings": "{}"}} {
		body, kind = form(fields, module)
		g.call(t, "POST", "/api/v1/plugins", body, "Content-Type", kind)
	}
	for _, path := range []string{"uploads/1", "uploads/99", "plugins/random/logs", "plugins/random/logs?after=x"} {
		g.call(t, "GET", "/api/v1/"+path, "")
	}
	body, kind = form(map[string]string{"name": "x"}, nil)
	g.call(t, "POST", "/api/v1/plugins", body, "Content-Type", kind)
	time.Sleep(time.Second)
	g.call(t, "PUT", "/api/v1/plugins/mine", string(module), "Content-Type", "application/wasm")
	g.call(t, "PUT", "/api/v1/plugins/nope", string(module), "Content-Type", "application/wasm")
	g.call(t, "PUT", "/api/v1/plugins/mine", "nonsense", "Content-Type", "application/wasm")
	for _, body := range []string{`{"config":{}}`, `{"config":{"nope":1}}`, `{"config":null}`, `{"config":1}`, `{}`} {
		g.call(t, "PATCH", "/api/v1/plugins/mine", body)
	}
	g.call(t, "PATCH", "/api/v1/plugins/nope", `{"config":{}}`)
	g.call(t, "PATCH", "/api/v1/plugins/random", `{"config":{}}`)
	for _, body := range []string{`{"for":"first"}`, `{"for":"retry"}`, `{"for":"backoff"}`, `{"for":"lunch"}`, `{}`,
		`{"for":1}`} {
		g.call(t, "POST", "/api/v1/plugins/mine/activate", body)
	}
	g.call(t, "POST", "/api/v1/plugins/linear/activate", `{"for":"backoff"}`)
	g.call(t, "POST", "/api/v1/plugins/nope/activate", `{"for":"first"}`)
	for _, path := range []string{"mine/rollback", "random/rollback", "nope/rollback", "mine/release",
		"nope/release"} {
		g.call(t, "POST", "/api/v1/plugins/"+path, "")
	}
	g.call(t, "DELETE", "/api/v1/plugins/mine", "")
	g.call(t, "DELETE", "/api/v1/plugins/random", "")
	g.call(t, "DELETE", "/api/v1/plugins/nope", "")
	g.call(t, "POST", "/api/v1/plugins/least_in_flight/activate", `{"for":"first"}`)
	g.call(t, "POST", "/api/v1/plugins/performance/activate", `{"for":"retry"}`)
	g.call(t, "DELETE", "/api/v1/plugins/mine", "")
	for _, body := range []string{
		``, `{"request":{"attempt":1},"candidates":[{"success_rate":1,"samples":9},{"latency_mean":0.2,` +
			`"normalized_latency":1}]}`,
		`{"candidates":[]}`, `{"candidates":[{"nope":1}]}`, `{"request":{"nope":1}}`, `{"request":{"attempt":"x"}}`,
	} {
		g.call(t, "POST", "/api/v1/plugins/performance/test", body)
	}
	for _, body := range []string{``, `{"request":{"retry":3,"base_delay":0.5,"cap":9}}`, `{"candidates":[{}]}`} {
		g.call(t, "POST", "/api/v1/plugins/linear/test", body)
	}
	for _, body := range []string{``, `{"request":{"status":429},"fields":{"Retry-After":"90"},"body":"slow down"}`,
		`{"candidates":[{}]}`, `{"request":{"nope":1}}`} {
		g.call(t, "POST", "/api/v1/plugins/ban_like/test", body)
	}
	g.call(t, "POST", "/api/v1/plugins/linear/test", `{"body":"x"}`)
	for _, judge := range []string{"ban_like", "linear", "none"} {
		g.call(t, "POST", "/api/v1/plugins/"+judge+"/activate", `{"for":"judge"}`)
	}
	g.call(t, "POST", "/api/v1/plugins/nope/test", "")
}

// keys records how requests are refused if there are keys.
func (g *golden) keys(t *testing.T) {
	g.served.SetKeys(nil, true)
	g.call(t, "GET", "/api/v1/proxies", "", "Host", "localhost")
	g.hosts(t)
	g.served.SetKeys([]Key{
		{Name: "ops", Secret: strings.TrimPrefix(adminKey, "Bearer "), Admin: true},
		{Name: "view", Secret: strings.TrimPrefix(readerKey, "Bearer ")},
	}, false)
	for _, path := range []string{"/healthz", "/api/v1", "/api/v1/retry/policy"} {
		g.call(t, "GET", path, "")
		g.call(t, "GET", path, "", "Authorization", "Bearer wrong")
		g.call(t, "GET", path, "", "Authorization", readerKey)
	}
	g.call(t, "PUT", "/api/v1/retry/policy", "{}")
	g.call(t, "PUT", "/api/v1/retry/policy", "{}", "Authorization", readerKey)
	g.call(t, "PUT", "/api/v1/retry/policy", "{}", "Authorization", adminKey)
	g.call(t, "PUT", "/api/v1/retry/policy", "{}", "Authorization", adminKey, "Origin", "http://evil.test")
	g.served.SetKeys(nil, false)
}

func (g *golden) hosts(t *testing.T) {
	r, body := roundTrip(t, g.served, "GET", requestHead("GET", "/api/v1/proxies", "evil.test", ""), "")
	fmt.Fprintf(&g.out, "GET /api/v1/proxies of another host\n%d\n%s\n\n", r.StatusCode,
		bytes.TrimSuffix(body, []byte("\n")))
}
