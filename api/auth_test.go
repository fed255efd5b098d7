package api

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
)

// permission is the kind of the least powerful key that an endpoint accepts.
type permission int

const (
	anyone permission = iota
	reader
	admin
)

// endpoints are all endpoints with the keys that they need.
var endpoints = withPages(map[string]permission{
	"GET /healthz": anyone, "GET /readyz": anyone, "GET /metrics": reader,
	"GET /api/v1/": anyone, "GET /api/v1/openapi.json": anyone, "GET /api/v1/healthz": anyone,
	"GET /api/v1/readyz":       anyone,
	"GET /api/v1/proxy-groups": reader, "GET /api/v1/retry/policy": reader, "PUT /api/v1/retry/policy": admin,
	"POST /api/v1/retry/policy/preview": reader, "POST /api/v1/proxies/:id/restore": admin,
	"POST /api/v1/proxies/:id/test": admin, "GET /api/v1/proxy-lists": reader, "POST /api/v1/proxy-lists": admin,
	"GET /api/v1/circuit-breakers": reader, "GET /api/v1/circuit-breakers/metrics": reader,
	"GET /api/v1/circuit-breakers/:id": reader, "POST /api/v1/circuit-breakers/:id/reset": admin,
	"GET /api/v1/users":            reader,
	"GET /api/v1/audit":            reader,
	"GET /api/v1/cluster":          reader,
	"GET /api/v1/cluster/breakers": reader,
	"GET /api/v1/cluster/targets":  reader,
	"GET /api/v1/route":            reader,
	"GET /api/v1/targets":          reader, "GET /api/v1/rests": reader, "GET /api/v1/metrics/costs": reader,
	"GET /api/v1/targets/:host": reader, "POST /api/v1/proxies/:id/ban": admin, "DELETE /api/v1/proxies/:id/ban": admin,

	"GET /api/v1/state": reader, "DELETE /api/v1/state": admin,
	"DELETE /api/v1/retry/policy": admin,
	"GET /api/v1/status":          reader, "GET /api/v1/metrics/history": reader,
	"GET /api/v1/metrics/retries": reader, "GET /api/v1/metrics/retries/timeseries": reader,
	"GET /api/v1/metrics/retries/by-proxy": reader,
	"GET /api/v1/proxies":                  reader, "POST /api/v1/proxies": admin, "GET /api/v1/proxies/:id": reader,
	"PATCH /api/v1/proxies/:id": admin, "DELETE /api/v1/proxies/:id": admin,
	"POST /api/v1/request": admin,
	"GET /api/v1/requests": reader, "GET /api/v1/requests/:id": reader,
	"POST /api/v1/requests": admin, "GET /api/v1/requests/:id/response": admin, "DELETE /api/v1/requests/:id": admin,
	"GET /api/v1/uploads/:id": reader, "GET /api/v1/plugins": reader, "POST /api/v1/plugins": admin,
	"GET /api/v1/plugins/:name": reader, "GET /api/v1/plugins/:name/logs": reader,
	"PUT /api/v1/plugins/:name": admin, "PATCH /api/v1/plugins/:name": admin, "DELETE /api/v1/plugins/:name": admin,
	"POST /api/v1/plugins/:name/test":     admin,
	"POST /api/v1/plugins/:name/activate": admin, "POST /api/v1/plugins/:name/rollback": admin,
	"POST /api/v1/plugins/:name/release": admin,
	"GET /api/v1/events":                 reader,
	"GET /api/v1/config":                 reader, "POST /api/v1/config/reload": admin,
})

// withPages adds the files of the dashboard to the endpoints.
func withPages(m map[string]permission) map[string]permission {
	for path := range pages {
		m["GET "+path] = anyone
	}
	return m
}

func TestTheListOfEndpointsIsComplete(t *testing.T) {
	served := map[string]permission{}
	for _, r := range newRig(t, nil).app.GetRoutes(true) {
		if r.Method != fiber.MethodHead {
			served[r.Method+" "+r.Path] = endpoints[r.Method+" "+r.Path]
		}
	}
	require.Equal(t, endpoints, served, "an endpoint's access is decided in this test")
}

// withKeys gives a rig the key of an administrator and the key of a reader.
func withKeys(_ *rig, cfg *Config) {
	cfg.Keys = []Key{{Name: "ops", Secret: "admins-key", Admin: true}, {Name: "eyes", Secret: "readers-key"}}
}

const (
	adminHeader  = "Authorization: Bearer admins-key"
	readerHeader = "Authorization: Bearer readers-key"
)

// Each endpoint refuses a key with too few rights, and then does nothing.
func TestAccess(t *testing.T) {
	allowed := func(need permission, header string) int {
		switch {
		case need == anyone, header == adminHeader, header == readerHeader && need == reader:
			return 0
		case header == readerHeader:
			return 403
		}
		return 401
	}
	for _, endpoint := range slices.Sorted(maps.Keys(endpoints)) {
		for _, header := range []string{
			"", readerHeader, adminHeader, "Authorization: Bearer admins-keyx", "Authorization: Bearer admins-ke",
			"Authorization: Bearer ",
			"Authorization: Basic admins-key", "Authorization: admins-key", "Authorization: Bearer  admins-key",
		} {
			r := newRig(t, withKeys)
			r.engine.result = &engine.Result{}
			r.engine.err = &engine.RequestError{Msg: "not made"}
			method, path, _ := strings.Cut(endpoint, " ")
			path = strings.NewReplacer(":id", "F1", ":name", "random").Replace(path)
			response, body := r.send(t, method, path, "", header)
			want := allowed(endpoints[endpoint], header)
			name := endpoint + " with " + header
			if want == 0 {
				require.NotContains(t, []int{401, 403}, response.StatusCode, "%s: %s", name, body)
				continue
			}
			require.Equal(t, want, response.StatusCode, "%s: %s", name, body)
			requireError(t, body, name)
			require.NotContains(t, string(body), "key-", "%s: a response has no key", name)
			require.Equal(t, want == 401, response.Header.Get("Www-Authenticate") == "Bearer", name)
			require.Len(t, r.pool.Snapshot().All, 2, name)
			require.Empty(t, r.engine.calls, name)
			if want == 401 && header != "" {
				require.Contains(t, r.log.String(), "login failed", name)
				require.NotContains(t, r.log.String(), "admins-k", name)
				continue
			}
			require.Empty(t, r.log.String(), name)
		}
	}
}

func TestKeysAreReplaced(t *testing.T) {
	r := newRig(t, withKeys)
	r.SetKeys([]Key{{Name: "next", Secret: "next-key", Admin: true}}, false)
	status := func(header string) int {
		response, _ := r.send(t, "GET", "/api/v1/proxies", "", header)
		return response.StatusCode
	}
	require.Equal(t, 401, status(adminHeader))
	require.Equal(t, 200, status("Authorization: bearer next-key"),
		"the scheme is case-insensitive (RFC 9110 section 11.1)")
	r.SetKeys(nil, false)
	require.Equal(t, 200, status(""), "without keys none is needed")
}

func TestOrigin(t *testing.T) {
	for _, x := range []struct {
		name, method, origin string
		keys                 bool
		status               int
	}{
		{"no browser", "POST", "", false, 200},
		{"own page", "POST", "http://localhost", false, 200},
		{"own page, host in upper case", "POST", "http://LOCALHOST", false, 200},
		{"other page", "POST", "http://evil.test", false, 403},
		{"other port", "POST", "http://localhost:1", false, 403},
		{"sandboxed page", "POST", "null", false, 403},
		{"malformed", "POST", "http://%zz", false, 403},
		{"other page reads", "GET", "http://evil.test", false, 200},
		{"other page reads the head", "HEAD", "http://evil.test", false, 200},
		{"other page with a key", "POST", "http://evil.test", true, 200},
	} {
		r := newRig(t, func(r *rig, cfg *Config) {
			if x.keys {
				withKeys(r, cfg)
			}
		})
		path := "/api/v1/circuit-breakers/F1"
		if x.method == "POST" {
			path += "/reset"
		}
		origin := ""
		if x.origin != "" {
			origin = "Origin: " + x.origin
		}
		response, body := r.send(t, x.method, path, "", origin, adminHeader)
		require.Equal(t, x.status, response.StatusCode, "%s: %s", x.name, body)
		if x.status == 403 {
			require.Contains(t, string(body), `"error":"cross_origin"`, x.name)
		}
	}
}

// Without keys only this machine may use the API. A web page can make a browser on this machine send requests for a
// name that the page's owner resolves to this machine (DNS rebinding). The Host is then that name.
func TestHost(t *testing.T) {
	for _, x := range []struct {
		target, host string
		loopbackOnly bool
		status       int
	}{
		{"/healthz", "localhost:8889", true, 200},
		{"/healthz", "LOCALHOST", true, 200},
		{"/healthz", "127.0.0.1", true, 200},
		{"/healthz", "127.9.9.9:1", true, 200},
		{"/healthz", "[::1]:8889", true, 200},
		{"/healthz", "[::1]", true, 200},
		{"/healthz", "evil.test", true, 421},
		{"/healthz", "10.0.0.1", true, 421},
		{"/healthz", "localhost.evil.test", true, 421},
		{"/healthz", "evil.test", false, 200},
		{"http://evil.test/healthz", "evil.test", false, 421}, // a request that was meant for the gateway's port
		{"http://localhost/healthz", "localhost", false, 200},
	} {
		r := newRig(t, func(_ *rig, cfg *Config) { cfg.LoopbackOnly = x.loopbackOnly })
		head := "GET " + x.target + " HTTP/1.1\r\nHost: " + x.host + "\r\nX-Forwarded-Host: localhost\r\n"
		response, body := roundTrip(t, r.Server, "GET", head, "")
		require.Equal(t, x.status, response.StatusCode, "%s of %s: %s", x.target, x.host, body)
	}
}

// A change is logged with the name of the key. Other requests are not logged.
func TestChangesAreLogged(t *testing.T) {
	for _, x := range []struct {
		method, path, body, header, logged string
	}{
		{"POST", "/circuit-breakers/F1/reset", "", adminHeader,
			"method=POST path=/api/v1/circuit-breakers/F1/reset key=ops"},
		{"DELETE", "/proxies/F1", "", adminHeader, "method=DELETE path=/api/v1/proxies/F1 key=ops"},
		{"GET", "/proxies", "", adminHeader, ""},
		{"HEAD", "/proxies", "", adminHeader, ""},
		{"DELETE", "/proxies/nope", "", adminHeader, ""},
		{"DELETE", "/proxies/F1", "", readerHeader, ""},
		{"POST", "/plugins/random/test", "", adminHeader, ""},
		{"POST", "/request", `{"url":"http://a.test/"}`, adminHeader, ""},
	} {
		r := newRig(t, withKeys)
		r.engine.result = responseOf("")
		r.send(t, x.method, "/api/v1"+x.path, x.body, x.header)
		if x.logged == "" {
			require.Empty(t, r.log.String(), x.method+x.path)
			continue
		}
		require.Contains(t, r.log.String(), "changed through the API", x.method+x.path)
		require.Contains(t, r.log.String(), x.logged)
	}
}

// A stream of events goes on as long as its key, or the key of its client certificate, is valid. An Authorization
// field takes precedence.
func TestKeysOfAStream(t *testing.T) {
	g := newRig(t, nil)
	g.SetKeys([]Key{{Name: "a", Secret: "one"}, {Name: "b", Certificate: "viewer"}}, false)
	for _, c := range []struct {
		header string
		names  []string
		want   bool
	}{
		{"Bearer one", nil, true},
		{"", []string{"viewer"}, true},
		{"Bearer two", []string{"viewer"}, false},
		{"", []string{"other"}, false},
		{"", nil, false},
	} {
		require.Equal(t, c.want, g.canRead(c.header, c.names), "%+v", c)
	}
}
