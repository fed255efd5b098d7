package integration

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// The served OpenAPI document is valid. One response of each operation matches it.
func TestResponsesMatchTheOpenAPIDocument(t *testing.T) {
	w := start(t, 3, confKB)
	w.tripBreaker(w.fakes[0])
	w.setAll(lab.OK())
	w.get()
	_, raw, _ := w.call("GET", "/openapi.json", "")
	doc, err := openapi3.NewLoader().LoadFromData(raw)
	require.NoError(t, err)
	require.NoError(t, doc.Validate(context.Background()))
	require.NotContains(t, string(raw), `"required":[]`,
		"OpenAPI 3.0 wants at least one there, which this validator does not see")
	doc.Servers = nil
	router, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	openapi3filter.RegisterBodyDecoder("application/wasm", openapi3filter.FileBodyDecoder)
	module, err := os.ReadFile(builtins + "random.wasm")
	require.NoError(t, err)
	met := map[string]bool{}
	id := w.getJSON("/requests")["requests"].([]any)[0].(map[string]any)["id"].(string)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/retry/policy/preview", `{"max_attempts":1}`},
		{"GET", "/proxy-groups?by=region&state=closed", ""}, {"GET", "/retry/policy", ""},
		{"PUT", "/retry/policy", `{"max_attempts":2,"timeout":null}`},
		{"DELETE", "/retry/policy", ""}, {"PUT", "/retry/policy", `{"max_attempts":2,"timeout":null}`},
		{"GET", "/circuit-breakers", ""}, {"GET", "/circuit-breakers/F1", ""}, {"GET", "/circuit-breakers/nope", ""},
		{"POST", "/circuit-breakers/F1/reset", ""}, {"GET", "/circuit-breakers/metrics?hours=1", ""},
		{"GET", "/targets?limit=1", ""}, {"GET", "/rests", ""}, {"GET", "/metrics/costs", ""},
		{"GET", "/route?url=https://www.shop.test", ""},
		{"POST", "/proxies/F2/ban", `{"for":"1h","host":"a.test"}`}, {"GET", "/targets/a.test", ""},
		{"DELETE", "/proxies/F2/ban?host=a.test", ""}, {"DELETE", "/proxies/F2/ban", ""},
		{"POST", "/proxies/F2/test", ""}, {"POST", "/proxies/nope/test", ""},
		{"GET", "/users", ""},
		{"GET", "/metrics/retries", ""}, {"GET", "/metrics/retries/timeseries", ""},
		{"GET", "/metrics/retries/by-proxy", ""}, {"GET", "/metrics/retries/by-proxy?window=5m", ""},
		{"GET", "/status", ""}, {"GET", "/metrics/history?window=1h&step=1m", ""},
		{"GET", "/metrics/history?proxy_id=F1", ""}, {"GET", "/circuit-breakers/F1?window=24h", ""},
		{"GET", "/proxies?limit=1&sort=-uses", ""}, {"GET", "/circuit-breakers?state=closed&q=F", ""},
		{"GET", "/circuit-breakers/metrics?proxy_id=F1&limit=1", ""}, {"GET", "/targets?sort=-failures&q=a", ""},
		{"GET", "/proxies", ""}, {"POST", "/proxies", `{"url":"http://127.0.0.1:9"}`},
		{"PATCH", "/proxies/127.0.0.1:9", `{"weight":3,"own_error":[{"status":500,"body":"x"}]}`},
		{"GET", "/proxies/127.0.0.1:9", ""},
		{"GET", "/proxies/F2", ""}, {"DELETE", "/proxies/127.0.0.1:9", ""},
		{"POST", "/proxies/127.0.0.1:9/restore", ""}, {"DELETE", "/proxies/127.0.0.1:9", ""},
		{"GET", "/proxy-lists?format=csv", ""}, {"POST", "/proxy-lists?dry_run=true", `{"proxies":["127.0.0.1:9"]}`},
		{"POST", "/request", `{"url":"http://origin.test/"}`},
		{"GET", "/requests?limit=5", ""}, {"GET", "/requests/" + id, ""}, {"GET", "/plugins", ""},
		{"POST", "/requests", `{"url":"http://origin.test/"}`}, {"GET", "/requests/" + id + "/response", ""},
		{"DELETE", "/requests/" + id, ""},
		{"GET", "/plugins/performance", ""}, {"GET", "/plugins/performance/logs", ""},
		{"POST", "/plugins/performance/test", ""},
		{"POST", "/plugins/performance/test",
			`{"request":{"attempt":1},"candidates":[{"success_rate":1,"samples":9},{"latency_mean":0.2,` +
				`"region_match":1}]}`},
		{"POST", "/plugins/linear/test", `{"request":{"retry":3,"base_delay":0.5,"cap":9}}`},
		{"POST", "/plugins/ban_like/test", `{"request":{"status":403},"fields":{"Server":"x"},"body":"y"}`},
		{"POST", "/plugins/ban_like/activate", `{"for":"judge"}`},
		{"POST", "/plugins/linear/test", ""}, {"POST", "/plugins/random/activate", `{"for":"first"}`},
		{"POST", "/plugins/random/rollback", ""},
		{"POST", "/plugins?name=mine", string(module)}, {"PUT", "/plugins/mine", string(module)},
		{"POST", "/plugins/mine/rollback", ""}, {"PATCH", "/plugins/mine", `{"config":{}}`},
		{"GET", "/events?type=nope", ""}, // a valid request would get an endless stream
		{"GET", "/uploads/1", ""}, {"GET", "/uploads/nope", ""}, {"GET", "/plugins/performance/logs?after=0", ""},
		{"POST", "/plugins/mine/release", ""}, {"PUT", "/plugins/mine", "nonsense"}, {"DELETE", "/plugins/mine", ""},
		{"DELETE", "/plugins/mine", ""},
		{"GET", "/state", ""}, {"DELETE", "/state", ""},
		{"GET", "/openapi.json", ""}, {"GET", "/config", ""}, {"POST", "/config/reload", ""}, {"GET", "/healthz", ""},
		{"GET", "/readyz", ""}, {"GET", "/cluster", ""}, {"GET", "/cluster/breakers", ""},
		{"GET", "/cluster/targets?limit=5", ""}, {"GET", "/audit?limit=5&sort=-at", ""},
	} {
		q, err := http.NewRequest(c.method, "http://"+w.api+"/api/v1"+c.path, bytes.NewReader([]byte(c.body)))
		require.NoError(t, err)
		switch {
		case c.body == "":
		case strings.HasPrefix(c.body, "{"):
			q.Header.Set("Content-Type", "application/json")
		default:
			q.Header.Set("Content-Type", "application/wasm")
		}
		r, err := http.DefaultClient.Do(q)
		require.NoError(t, err)
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		require.NoError(t, err)
		find, err := http.NewRequest(c.method, c.path, bytes.NewReader([]byte(c.body)))
		require.NoError(t, err)
		find.Header = q.Header
		route, params, err := router.FindRoute(find)
		require.NoError(t, err, "%s %s is not in the document", c.method, c.path)
		met[c.method+" "+route.Path] = true
		in := &openapi3filter.RequestValidationInput{Request: find, PathParams: params, Route: route,
			Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
				IncludeResponseStatus: true}}
		if r.StatusCode != http.StatusBadRequest {
			require.NoError(t, openapi3filter.ValidateRequest(context.Background(), in), "%s %s", c.method, c.path)
		}
		out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: r.StatusCode,
			Header: r.Header, Options: in.Options}
		out.SetBodyBytes(body)
		require.NoError(t, openapi3filter.ValidateResponse(context.Background(), out), "%s %s: %s", c.method, c.path,
			body)
	}
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			require.NotEmpty(t, operation.OperationID, "%s %s: generated clients call it by that", method, path)
			require.True(t, met[method+" "+path], "%s %s has not been tried", method, path)
		}
	}
}

// Schemathesis makes requests from the served document. Valid requests are accepted, invalid ones are refused, and
// each response is as described. testdata/schemathesis lists the exceptions.
func TestSchemathesis(t *testing.T) {
	w := start(t, 3, confKB)
	dir := t.TempDir() // schemathesis writes into its working directory
	require.NoError(t, os.CopyFS(dir, os.DirFS("testdata/schemathesis")))
	program, err := filepath.Abs("../.ci/schemathesis")
	require.NoError(t, err)
	command := exec.Command(program, "--config-file", "schemathesis.toml", "run",
		"http://"+w.api+"/api/v1/openapi.json", "--checks", "all", "--phases", "examples,coverage,fuzzing",
		"--max-examples", "5", "--seed", "1", "--no-color")
	command.Dir = dir
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
