package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
)

func TestHealth(t *testing.T) {
	r := newRig(t, nil)
	ready := func(status int, want string) {
		t.Helper()
		r.check(t, get("/readyz", status, want))
		response, body := r.send(t, "GET", "/readyz", "")
		require.Equal(t, status, response.StatusCode)
		require.Equal(t, want+"\n", string(body))
	}
	r.check(t, get("/healthz", 200, `{"status":"ok","version":"v1"}`))
	ready(200, `{"status":"ready"}`)
	r.trip("F1")
	ready(200, `{"status":"ready"}`)
	r.trip("F2")
	ready(503, `{"error":"not_ready","message":"no proxy accepts requests"}`)
	r.now = r.now.Add(time.Minute)
	ready(200, `{"status":"ready"}`) // half-open breakers admit probes
	r.pool.Snapshot().Get("F1").Breaker().Reset()
	r.trip("F2")
	ready(200, `{"status":"ready"}`)
	lease, _ := r.pool.Snapshot().Get("F1").Acquire(r.now)
	defer lease.Release()
	require.NoError(t, r.pool.Remove("F1", true))
	ready(503, `{"error":"not_ready","message":"no proxy accepts requests"}`)
	r.pool.Snapshot().Get("F2").Breaker().Reset()
	r.engine.draining = true
	ready(503, `{"error":"not_ready","message":"the gateway is shutting down"}`)
	r.check(t, apiCase{name: "it is alive nevertheless", path: "/healthz", status: 200})
}

func TestPagesAndDocuments(t *testing.T) {
	r := newRig(t, withKeys)
	for path, kind := range map[string]string{
		"/": "text/html; charset=utf-8", "/dashboard.css": "text/css; charset=utf-8",
		"/main.js": "text/javascript; charset=utf-8", "/plugins.js": "text/javascript; charset=utf-8",
		"/docs": "text/html; charset=utf-8", "/docs.js": "text/javascript; charset=utf-8",
		"/docs.css": "text/css; charset=utf-8",
	} {
		response, body := r.send(t, "GET", path, "")
		require.Equal(t, 200, response.StatusCode, path)
		require.Equal(t, kind, response.Header.Get("Content-Type"), path)
		require.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'none'", path)
		require.NotEmpty(t, body)
	}
	_, body := r.send(t, "GET", "/live.js", "")
	require.Regexp(t, `const name = "[0-9a-f]{16} "`, string(body))
	for _, path := range []string{"/api/v1", "/api/v1/", "/api/v1/openapi.json"} {
		response, body := r.send(t, "GET", path, "")
		require.Equal(t, 200, response.StatusCode, path)
		require.Equal(t, "application/json", response.Header.Get("Content-Type"), path)
		require.Contains(t, string(body), `"openapi":"3.0.3"`, path)
	}
	response, body := r.send(t, "GET", "/metrics", "", readerHeader)
	require.Equal(t, 200, response.StatusCode)
	require.Equal(t, "scrape", string(body))
}

// Requests that no endpoint accepts get an error of the usual form.
func TestPathsAndMethods(t *testing.T) {
	r := newRig(t, nil)
	for _, x := range []struct {
		method, path string
		status       int
		allow, want  string
	}{
		{"GET", "/nope", 404, "", "there is no endpoint /nope;"},
		{"GET", "/api/v1/nope", 404, "", "there is no endpoint /api/v1/nope;"},
		{"GET", "/API/v1/proxies", 404, "", ""},
		{"GET", "/api/v2/proxies", 404, "", ""},
		{"GET", "/" + strings.Repeat("a", 1000), 404, "", "..."},
		{"GET", "/api/v1/proxies/%zz", 404, "", ""},
		{"DELETE", "/api/v1/proxies", 405, "GET, HEAD, POST",
			"/api/v1/proxies does not accept DELETE; it accepts GET, HEAD, POST"},
		{"POST", "/api/v1/retry/policy", 405, "GET, HEAD, PUT, DELETE", ""},
		{"TRACE", "/api/v1/config", 405, "GET, HEAD", ""},
		{"BREW", "/api/v1/config", 405, "GET, HEAD", "does not accept BREW"},
		{"GET", "/api/v1/request", 405, "POST", ""},
	} {
		response, body := r.send(t, x.method, x.path, "")
		name := x.method + " " + clipText(x.path)
		require.Equal(t, x.status, response.StatusCode, "%s: %s", name, body)
		require.Equal(t, x.allow, response.Header.Get("Allow"), name)
		require.Contains(t, string(body), x.want, name)
		requireError(t, body, name)
	}
}

func TestHeadersOfEveryResponse(t *testing.T) {
	r := newRig(t, nil)
	for _, path := range []string{"/", "/api/v1/proxies", "/nope"} {
		response, _ := r.send(t, "GET", path, "")
		require.Equal(t, "nosniff", response.Header.Get("X-Content-Type-Options"), path)
		require.Equal(t, "no-store", response.Header.Get("Cache-Control"), path)
		require.Empty(t, response.Header.Get("Server"), path)
	}
}

// A body that is too large is refused before it is in memory. Only a client that may upload a module may send a body
// larger than the limit for JSON.
func TestBodyLimit(t *testing.T) {
	for _, x := range []struct {
		name, path, header string
		size               int
		keys               bool
		status             int
	}{
		{"JSON at the limit", "/retry/policy", "", maxJSON, false, 400}, // it is not valid JSON
		{"JSON", "/retry/policy", "", maxJSON + 1, false, 413},
		{"module at the limit", "/plugins?name=a", "", maxUpload, false, 201},
		{"module", "/plugins?name=a", "", maxUpload + 1, false, 413},
		{"JSON to a plugin", "/plugins/random/activate", "", maxJSON + 1, false, 413},
		{"module of an admin", "/plugins?name=a", adminHeader, maxJSON + 1, true, 201},
		{"module of a reader", "/plugins?name=a", readerHeader, maxJSON + 1, true, 403},
		{"module without a key", "/plugins?name=a", "", maxJSON + 1, true, 401},
		{"JSON of an admin", "/retry/policy", adminHeader, maxJSON + 1, true, 413},
	} {
		r := newRig(t, func(r *rig, cfg *Config) {
			if x.keys {
				withKeys(r, cfg)
			}
		})
		method, kind := "POST", "Content-Type: application/json"
		if strings.HasPrefix(x.path, "/plugins?") {
			kind = "Content-Type: application/wasm"
		}
		if x.path == "/retry/policy" {
			method = "PUT"
		}
		response, body := r.send(t, method, "/api/v1"+x.path, strings.Repeat(" ", x.size), kind, x.header)
		require.Equal(t, x.status, response.StatusCode, "%s: %s", x.name, body)
		if x.status != 201 {
			requireError(t, body, x.name)
		}
	}
}

// The body of a refused upload is not read into memory, whatever the status of the response.
func TestBodyLimitOfAClient(t *testing.T) {
	open, keys := newRig(t, nil), newRig(t, withKeys)
	for _, x := range []struct {
		server *rig
		path   string
		header string
		limit  int
	}{
		{open, "/api/v1/plugins", "", maxUpload},
		{open, "/api/v1/proxies", "", maxJSON},
		{keys, "/api/v1/plugins", "", maxJSON},
		{keys, "/api/v1/plugins/a", "Bearer wrong", maxJSON},
		{keys, "/api/v1/plugins/a", "Bearer readers-key", maxJSON},
		{keys, "/api/v1/plugins/a", "Bearer admins-key", maxUpload},
		{keys, "/api/v1/proxies", "Bearer admins-key", maxJSON},
	} {
		var h fasthttp.RequestHeader
		h.SetRequestURI(x.path)
		h.Set("Authorization", x.header)
		require.Equal(t, x.limit, x.server.bodyLimit(&h), x.path+" "+x.header)
	}
}

func TestHeaderLimit(t *testing.T) {
	for size, status := range map[int]int{15 << 10: 200, 17 << 10: 431} {
		response, body := newRig(t, nil).send(t, "GET", "/api/v1/proxies", "", "X-Long: "+strings.Repeat("a", size))
		require.Equal(t, status, response.StatusCode, "%s", body)
		if status != 200 {
			requireError(t, body, "")
		}
	}
}

// withBody has the endpoints with a JSON body, and a valid body for each.
var withBody = map[string]string{
	"PUT /retry/policy": `{"max_attempts":2}`, "POST /proxies": `{"url":"http://f3.test:1"}`,
	"PATCH /proxies/F1": `{"weight":2}`,
	"POST /request":     `{"url":"http://a.test/"}`, "POST /plugins/random/activate": `{"for":"first"}`,
	"POST /plugins/random/test": `{"candidates":[{"weight":3}]}`,
}

// An invalid body leads only to the statuses 400, 413 and 415, and changes nothing.
func TestBadBodies(t *testing.T) {
	for endpoint, good := range withBody {
		method, path, _ := strings.Cut(endpoint, " ")
		for _, x := range []struct {
			body, header string
			status       int
		}{
			{"", "Content-Type: text/plain", 415},
			{good, "Content-Type: text/plain", 415},
			{good, "Content-Type: ", 415},
			{good, "Content-Encoding: gzip", 415},
			{good, "Content-Encoding: identity", 0},
			{good, "Content-Type: Application/JSON; charset=utf-8", 0},
			{"{", "", 400}, {"[]", "", 400}, {"null", "", 400}, {"1", "", 400}, {`""`, "", 400}, {"{}{}", "", 400},
			{good + good, "", 400},
			{`{"nope":1}`, "", 400}, {"\"\xff\"", "", 400}, {strings.Repeat("[", 10_000), "", 400},
			{`{"":1}`, "", 400},
			{strings.ToUpper(good), "", 400},
			{strings.Repeat(" ", maxJSON+1), "", 413},
		} {
			if x.body == "" && strings.HasSuffix(path, "/test") { // the only endpoint that needs no body
				continue
			}
			r := newRig(t, nil)
			r.engine.result = responseOf("")
			policy := r.policies.View()
			response, body := r.send(t, method, "/api/v1"+path, x.body, x.header)
			name := endpoint + " " + clipText(x.body) + " " + x.header
			if x.status == 0 {
				require.Less(t, response.StatusCode, 300, "%s: %s", name, body)
				continue
			}
			require.Equal(t, x.status, response.StatusCode, "%s: %s", name, body)
			requireError(t, body, name)
			require.Equal(t, policy, r.policies.View(), name)
			require.Len(t, r.pool.Snapshot().All, 2, name)
			require.EqualValues(t, 1, r.pool.Snapshot().Get("F1").Spec().Weight, name)
			require.Empty(t, r.engine.calls, name)
		}
	}
}

// panicking is a Metrics that panics.
type panicking struct{ Metrics }

func (panicking) Summary() metrics.Summary { panic("secret") }
func (panicking) Handler() http.Handler    { return http.NotFoundHandler() }

// If a handler panics, the details are in the log and not in the response.
func TestPanic(t *testing.T) {
	r := newRig(t, func(_ *rig, cfg *Config) { cfg.Metrics = panicking{} })
	r.check(t, get("/metrics/retries", 500,
		`{"error":"internal","message":"internal error; the log has the details"}`))
	require.Contains(t, r.log.String(), "panic in the API")
	require.Contains(t, r.log.String(), "secret")
}

// For every input of the client, the response is not a 5xx and has the form of an error.
func FuzzRequest(f *testing.F) {
	for endpoint, body := range withBody {
		method, path, _ := strings.Cut(endpoint, " ")
		f.Add(method, "/api/v1"+path, "application/json", body)
	}
	f.Add("GET", "/api/v1/targets?limit=1&cursor=2", "", "")
	f.Add("POST", "/api/v1/plugins", "multipart/form-data; boundary=b",
		"--b\r\nContent-Disposition: form-data; name=\"module\"; filename=\"a\"\r\n\r\nx\r\n--b--")
	f.Add("DELETE", "/api/v1/proxies/F1?drain=true", "", "")
	f.Fuzz(func(t *testing.T, method, path, kind, body string) {
		if strings.ContainsAny(method+path+kind, "\r\n \x00") || method == "" || !strings.HasPrefix(path,
			"/") || method == "HEAD" {
			t.Skip("no request line")
		}
		r := newRig(t, nil)
		r.engine.result = responseOf("")
		response, content := r.send(t, method, path, body, "Content-Type: "+kind)
		require.Less(t, response.StatusCode, 500, "%s", content)
		if response.StatusCode >= 400 {
			requireError(t, content, path)
		}
	})
}
