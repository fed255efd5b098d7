package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/top"
)

const threeProxies = `200 {"proxies":[` +
	`{"id":"a","url":"http://10.0.0.1:80","region":"DE","state":"closed","uses":7,"samples":4,"success_rate":0.5,` +
	`"avg_latency":0.25},` +
	`{"id":"b","url":"http://10.0.0.2:80","region":"US","state":"open","uses":9},` +
	`{"id":"c","url":"http://10.0.0.3:80","state":"closed","draining":true}]}`

// listed are the requests of proxies list.
const listed = "GET /proxies, GET /status"

func TestProxiesCommands(t *testing.T) {
	three := map[string][]string{"GET /proxies": {threeProxies}, "GET /status": {`200 {"proxies":{"total":3}}`}}
	list := filepath.Join(t.TempDir(), "list.txt")
	require.NoError(t, os.WriteFile(list, []byte("10.0.0.5:3128\nsocks5://u:secret@10.0.0.6:1080#region=US\n"), 0o600))
	added := `201 {"proxies":[{"id":"x","url":"http://10.0.0.5:3128"}]}`
	for name, c := range map[string]struct {
		args      []string
		responses map[string][]string
		code      int
		out, errs string // parts of the output
		requests  string
		body      string // body of the last request
	}{
		"list": {[]string{"list"}, three, 0,
			"a   closed    DE      0          7     50.0 %   250 ms   http://10.0.0.1:80\n", "", listed, ""},
		"list by state": {[]string{"list", "--sort", "state", "--limit", "1"},
			three, 0, "b   open   US", "", listed, ""},
		"list one state": {[]string{"list", "--state", "draining"},
			three, 0,
			"1 of 3 proxies\n", "", listed, ""},
		"list failing proxies": {[]string{"list", "--state", "failing", "--reason", "403 at a.test"},
			three, 0, "c   draining", "", listed, ""},
		"list a region as JSON": {[]string{"list", "--region", "us", "--json"},
			three, 0, `"url": "http://10.0.0.2:80"`, "",
			listed, ""},
		"an unknown state":  {[]string{"list", "--state", "opne"}, nil, 2, "", "did you mean open?", "", ""},
		"an unknown column": {[]string{"list", "--sort", "latncy"}, nil, 2, "", "did you mean latency?", "", ""},
		"add": {[]string{"add", "10.0.0.5:3128", "--id", "x", "--region", "DE"},
			map[string][]string{"POST /proxies": {added}}, 0, "x is added: http://10.0.0.5:3128\n", "", "POST /proxies",
			`{"proxies":[{"id":"x","url":"http://10.0.0.5:3128","region":"DE"}],"persist":true}`},
		"add a list": {[]string{"add", "--file", list, "--no-persist", "--scheme", "https"},
			map[string][]string{"POST /proxies": {added}}, 0, "", "", "POST /proxies",
			`{"proxies":[{"url":"https://10.0.0.5:3128"},{"url":"socks5://u:secret@10.0.0.6:1080","region":"US"}],` +
				`"persist":false}`},
		"add nothing":  {[]string{"add"}, nil, 2, "", "there is no proxy", "", ""},
		"add no proxy": {[]string{"add", "ftp://secret@h:1"}, nil, 2, "", "proxy 1: ", "", ""},
		"add both":     {[]string{"add", "10.0.0.5:1", "--file", list}, nil, 2, "", "not both", "", ""},
		"one id for two": {[]string{"add", "--file", list, "--id", "x"}, nil, 2, "", "--id is for one proxy", "",
			""},
		"a scheme": {[]string{"add", "10.0.0.5:1", "--scheme", "sokcs5"}, nil, 2, "",
			"did you mean socks5?", "", ""},
		"add what is refused": {[]string{"add", "10.0.0.5:1"},
			map[string][]string{"POST /proxies": {`409 {"error":"conflict","message":"x exists"}`}}, 1, "",
			"x exists", "POST /proxies", ""},
		"groups": {[]string{"groups", "--by", "vendor"}, map[string][]string{"GET /proxy-groups": {
			`200 {"by":"vendor","total":2,"groups":[{"name":"north","proxies":9,"failing":3,` +
				`"reason":"proxy unreachable"},{"name":"","proxies":4}]}`}}, 0,
			"north   9        3        0       proxy unreachable\n-       4", "", "GET /proxy-groups", ""},
		"groups by an unknown field": {[]string{"groups", "--by", "vendr"}, nil, 2, "", "did you mean vendor?", "", ""},
		"test by a connection": {[]string{"test", "a"}, map[string][]string{"POST /proxies/a/test": {
			`200 {"proxy_id":"a","kind":"connection","passed":true,"error":"","latency":0.012}`}}, 0,
			"a is reachable: 12 ms for a connection; without health.url, no request was sent\n", "",
			"POST /proxies/a/test", ""},
		"test by a request": {[]string{"test", "a"}, map[string][]string{"POST /proxies/a/test": {
			`200 {"proxy_id":"a","kind":"health_check","passed":true,"error":"","latency":0.012,` +
				`"exit_address":"192.0.2.7"}`}}, 0,
			"a works: 12 ms for health.url, exit address 192.0.2.7\n", "", "POST /proxies/a/test", ""},
		"restore": {[]string{"restore", "a b"}, map[string][]string{"POST /proxies/a b/restore": {"200 {}"}}, 0,
			"a b is in the pool again\n", "", "POST /proxies/a b/restore", ""},
		"drain": {[]string{"drain", "a b"}, map[string][]string{"DELETE /proxies/a b": {"204 "}}, 0,
			"a b is draining\n", "", "DELETE /proxies/a b", ""},
		"undrain": {[]string{"undrain", "a"}, map[string][]string{"DELETE /state": {"204 "},
			"POST /config/reload": {`200 {"ok":true}`},
			"GET /proxies/a":      {`200 {"id":"a"}`}}, 0, "a is in the pool again\n", "",
			"DELETE /state, POST /config/reload, GET /proxies/a", ""},
		"undrain without a record": {[]string{"undrain", "a"},
			map[string][]string{"POST /config/reload": {`200 {"ok":true}`}, "GET /proxies/a": {`200 {"id":"a"}`}}, 0,
			"again\n", "", "DELETE /state, POST /config/reload, GET /proxies/a", ""},
		"undrain an added proxy": {[]string{"undrain", "a"}, map[string][]string{"DELETE /state": {"204 "},
			"POST /config/reload": {`200 {"ok":true}`}}, 1, "", "add it again",
			"DELETE /state, POST /config/reload, GET /proxies/a", ""},
		"undrain what drains on": {[]string{"undrain", "a"}, map[string][]string{"DELETE /state": {"204 "},
			"POST /config/reload": {`200 {"ok":true}`},
			"GET /proxies/a":      {`200 {"id":"a","draining":true}`}}, 1, "", "goes on draining",
			"DELETE /state, POST /config/reload, GET /proxies/a", ""},
		"ban": {[]string{"ban", "a", "--for", "1h", "--host", "shop.example"},
			map[string][]string{"POST /proxies/a/ban": {`200 {"until":"2026-11-29T12:00:00Z"}`}}, 0,
			"a is banned for shop.example until 2026-11-29 ", "", "POST /proxies/a/ban",
			`{"for":"1h0m0s","host":"shop.example"}`},
		"ban for all hosts": {[]string{"ban", "a"},
			map[string][]string{"POST /proxies/a/ban": {`200 {"until":"2026-11-29T12:00:00Z"}`}}, 0,
			"a is banned until", "", "POST /proxies/a/ban", `{"for":"10m0s"}`},
		"ban by reason": {[]string{"ban", "--reason", "403 at h"}, map[string][]string{"GET /proxies": {threeProxies},
			"POST /proxies/a/ban": {`200 {}`}, "POST /proxies/b/ban": {`200 {}`}, "POST /proxies/c/ban": {`200 {}`}}, 0,
			"b is banned until", "", "GET /proxies, POST /proxies/a/ban, POST /proxies/b/ban, POST /proxies/c/ban", ""},
		"reset by state": {[]string{"reset", "--state", "open"}, map[string][]string{"GET /proxies": {threeProxies},
			"POST /circuit-breakers/b/reset": {"200 {}"}}, 0, "b has a closed breaker\n", "",
			"GET /proxies, POST /circuit-breakers/b/reset", ""},
		"ban none": {[]string{"ban", "--region", "none"}, map[string][]string{"GET /proxies": {threeProxies}}, 1, "",
			"the flags select no proxy", "GET /proxies", ""},
		"ban by an unknown state": {[]string{"ban", "--state", "opne"}, nil, 2, "", "did you mean open?", "", ""},
		"ban by id and reason":    {[]string{"ban", "a", "--reason", "x"}, nil, 2, "", "not both", "", ""},
		"ban by nothing":          {[]string{"ban", "--region", ""}, nil, 2, "", "ID is missing", "", ""},
		"unban": {[]string{"unban", "a", "--host", "h"}, map[string][]string{"DELETE /proxies/a/ban": {"204 "}}, 0,
			"a is not banned any more for h\n", "", "DELETE /proxies/a/ban", ""},
		"reset": {[]string{"reset", "a", "b"}, map[string][]string{"POST /circuit-breakers/a/reset": {"200 {}"},
			"POST /circuit-breakers/b/reset": {"200 {}"}}, 0,
			"a has a closed breaker\nb has a closed breaker\n", "",
			"POST /circuit-breakers/a/reset, POST /circuit-breakers/b/reset", ""},
		"delete one of two": {[]string{"delete", "a", "b"}, map[string][]string{"DELETE /proxies/b": {"204 "}}, 1,
			"b is deleted\n", "a: there is nothing\n1 of 2 proxies failed\n",
			"DELETE /proxies/a, DELETE /proxies/b", ""},
		"delete as JSON": {[]string{"delete", "a", "--json"}, map[string][]string{"DELETE /proxies/a": {"204 "}}, 0,
			`"done": "is deleted"`, "", "DELETE /proxies/a", ""},
		"no id": {[]string{"reset"}, nil, 2, "", "proxies reset: ID is missing", "", ""},
		"a misspelling": {[]string{"drian", "a"}, nil, 2, "",
			`"drian" is not one of its commands; did you mean drain?`, "", ""},
		"a wrong flag": {[]string{"ban", "a", "--fro", "1h"}, nil, 2, "",
			"unknown flag: --fro; did you mean --for?", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			api := newFakeAPI(t, c.responses)
			out, errs, code := run(append([]string{"proxies"}, c.args...)...)
			require.Equal(t, c.code, code, out+errs)
			require.Contains(t, out, c.out)
			require.Contains(t, errs, c.errs)
			require.NotContains(t, out+errs, "secret")
			require.Equal(t, c.requests, strings.Join(api.requests, ", "))
			if c.body != "" {
				require.JSONEq(t, c.body, api.bodies[api.requests[len(api.requests)-1]])
			}
		})
	}
}

func TestPolicyCommands(t *testing.T) {
	const policy = `200 {"max_attempts":5,"timeout":null,"retry_status_codes":[502,503],"source":"runtime"}`
	for name, c := range map[string]struct {
		args      []string
		responses map[string][]string
		code      int
		out, errs string
		body      string // body of the last PUT /retry/policy
	}{
		"get": {[]string{"get"}, map[string][]string{"GET /retry/policy": {policy}}, 0,
			"max_attempts        5\ntimeout             null\nretry_status_codes  [502,503]\n" +
				"source              runtime\n", "", ""},
		"get as JSON": {[]string{"get", "--json"}, map[string][]string{"GET /retry/policy": {policy}}, 0,
			`"max_attempts": 5`, "", ""},
		"set": {[]string{"set", "max_attempts=5", "timeout=null", "jitter=true", "backoff_strategy=linear",
			"retry_status_codes=502,503"},
			map[string][]string{"PUT /retry/policy": {policy}}, 0, "max_attempts        5\n", "",
			`{"max_attempts":5,"timeout":null,"jitter":true,` +
				`"backoff_strategy":"linear","retry_status_codes":[502,503],` +
				`"persist":true}`},
		"set for now": {[]string{"set", "--no-persist", "hedge=p95"},
			map[string][]string{"PUT /retry/policy": {policy}}, 0, "", "",
			`{"hedge":"p95","persist":false}`},
		"set what is refused": {[]string{"set", "max_attempt=5"}, map[string][]string{"PUT /retry/policy": {
			`400 {"error":"invalid_field","message":"max_attempt: unknown field; did you mean max_attempts?"}`}}, 2, "",
			"did you mean max_attempts?", ""},
		"set nothing":  {[]string{"set"}, nil, 2, "", "KEY=VALUE is missing", ""},
		"set no value": {[]string{"set", "max_attempts"}, nil, 2, "", "must be KEY=VALUE", ""},
		"reset":        {[]string{"reset"}, map[string][]string{"DELETE /retry/policy": {policy}}, 0, "source", "", ""},
		"reset what is not changed": {[]string{"reset"}, map[string][]string{"GET /retry/policy": {policy},
			"DELETE /retry/policy": {`405 {"error":"nothing_to_delete","message":"no"}`}}, 0, "source", "", ""},
		"get too much": {[]string{"get", "x"}, nil, 2, "", "one argument too many", ""},
	} {
		t.Run(name, func(t *testing.T) {
			api := newFakeAPI(t, c.responses)
			out, errs, code := run(append([]string{"policy"}, c.args...)...)
			require.Equal(t, c.code, code, out+errs)
			require.Contains(t, out, c.out)
			require.Contains(t, errs, c.errs)
			if c.body != "" {
				require.JSONEq(t, c.body, api.bodies["PUT /retry/policy"])
			}
		})
	}
}

func TestReloadCommand(t *testing.T) {
	newFakeAPI(t, map[string][]string{"POST /config/reload": {`200 {"ok":true,"restart":["api.listen"]}`,
		`422 {"error":"invalid_config","message":"not reloaded","details":{"faults":[{"file":"k.toml","line":3,` +
			`"key":"log.level","message":"must be debug"},{"file":"k.toml","key":"a","message":"b"}]}}`}})
	out, errs, code := run("reload")
	require.Zero(t, code, errs)
	require.Equal(t, "the configuration is in force\nthese changes take effect at the next start: api.listen\n", out)
	_, errs, code = run("reload")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "not reloaded\nk.toml:3: log.level: must be debug\nk.toml: a: b\n")
}

func TestRequestCommand(t *testing.T) {
	const attempts = `[{"attempt":0,"proxy_id":"a","outcome":"failure","latency":0.5,"cause":"proxy_unreachable",` +
		`"error_message":"refu\u001bsed","started_at":"2026-11-29T12:00:00Z"},` +
		`{"attempt":1,"hedge":true,"proxy_id":"b","outcome":"success","status_code":200,"latency":0.5,` +
		`"cause":"answered","started_at":"2026-11-29T12:00:00.5Z"}]`
	const success = `200 {"request_id":"00000000000000aa","outcome":"success","status":200,"headers":{},` +
		`"body":"hello",` +
		`"truncated":false,"attempts":` + attempts + `}`
	for name, c := range map[string]struct {
		args     []string
		response string
		code     int
		out      []string
		errs     string
		body     string
	}{
		"a waterfall": {nil, success, 0, []string{"GET http://x/: 200 success, 5 bytes\n",
			"request 00000000000000aa, 2 attempts\n",
			"0          a      proxy_unreachable  -       0 ms    500 ms    -      ====================\n",
			"1 (hedge)  b      answered           200     500 ms  500 ms    5" +
				"                          ====================\n",
			"attempt 0: refu?sed\n"}, "", `{"url":"http://x/"}`},
		"the body": {[]string{"--body"}, success, 0, []string{"hello"}, "", ""},
		"JSON":     {[]string{"--json"}, success, 0, []string{`"request_id": "00000000000000aa"`}, "", ""},
		"all fields": {[]string{"-X", "PUT", "-H", "A: b", "-d", "@-", "--retry", "max_attempts=2", "--region", "DE",
			"--region-strict",
			"--session", "s", "--priority", "high"}, success, 0, nil, "",
			`{"method":"PUT","url":"http://x/","headers":{"A":"b"},"body_base64":"eyJyZXF1ZXN0Ijp7fX0=",` +
				`"retry":{"max_attempts":2},` +
				`"region":"DE","region_strict":true,"session":"s","priority":"high"}`},
		"a post": {[]string{"-d", "hi"}, success, 0, nil, "",
			`{"method":"POST","url":"http://x/","body_base64":"aGk="}`},
		"no response": {nil,
			`502 {"error":"exhausted","message":"all attempts failed","details":{"request_id":"00000000000000ab",` +
				`"attempts":` + attempts + `}}`, 1, []string{"GET http://x/: no response, exhausted\n",
				"proxy_unreachable"}, "all attempts failed", ""},
		"a failed response": {nil, strings.Replace(success, `"success","status":200`, `"exhausted","status":503`, 1), 1,
			[]string{"503 exhausted"}, "the outcome exhausted", ""},
		"no URL": {nil, `400 {"error":"invalid_field","message":"url must be","details":{"field":"url"}}`, 1,
			nil, "url must be", ""},
		"a wrong header": {[]string{"-H", "A"}, success, 2, nil, "'NAME: VALUE'", ""},
		"a priority":     {[]string{"--priority", "hihg"}, success, 2, nil, "did you mean high?", ""},
		"no file":        {[]string{"-d", "@/none"}, success, 2, nil, "no such file", ""},
	} {
		t.Run(name, func(t *testing.T) {
			api := newFakeAPI(t, map[string][]string{"POST /request": {c.response}})
			out, errs, code := run(append([]string{"request", "http://x/"}, c.args...)...)
			require.Equal(t, c.code, code, out+errs)
			for _, part := range c.out {
				require.Contains(t, out, part)
			}
			require.Contains(t, errs, c.errs)
			if c.body != "" {
				require.JSONEq(t, c.body, api.bodies["POST /request"])
			}
		})
	}
}

// The key of the client file is sent to the URL of the file only.
func TestTheClientFile(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	file := filepath.Join(home, "whirlpool", "client.toml")
	require.NoError(t, os.Mkdir(filepath.Dir(file), 0o700))
	responses := func() map[string][]string { return map[string][]string{"GET /retry/policy": {"200 {}"}} }
	other := newFakeAPI(t, responses())
	api := newFakeAPI(t, responses())
	t.Setenv(urlVar, "")
	t.Setenv(keyVar, "")
	write := func(text string, mode os.FileMode) {
		os.Remove(file)
		require.NoError(t, os.WriteFile(file, []byte(text), mode))
	}
	write("url = \""+api.URL+"\"\nkey = \"of-the-file\"\n", 0o600)
	_, errs, code := run("policy", "get")
	require.Zero(t, code, errs)
	require.Equal(t, map[string]bool{"Bearer of-the-file": true}, api.keys)
	_, errs, code = run("policy", "get", "--url", other.URL)
	require.Zero(t, code, errs)
	require.Equal(t, map[string]bool{"": true}, other.keys)

	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(file), "k"), []byte("of-the-key-file\n"), 0o600))
	write("url = \""+api.URL+"\"\nkey_file = \"k\"\n", 0o644)
	_, errs, code = run("policy", "get")
	require.Zero(t, code, errs)
	require.True(t, api.keys["Bearer of-the-key-file"])

	for text, message := range map[string]string{
		"key = \"secret\"\n":                   "can be read by other users",
		"key = \"secret\"\nkey_file = \"k\"\n": "give one of them",
		"kye = \"secret\"\n":                   "did you mean key?",
		"key = secret\n":                       "is not valid TOML",
	} {
		write(text, 0o644)
		_, errs, code = run("policy", "get")
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, message)
		require.NotContains(t, errs, "secret")
	}
}

// The command reads a list in pages, and only up to its limit.
func TestProxiesAreListedInPages(t *testing.T) {
	pages := func() *fakeAPI {
		return newFakeAPI(t, map[string][]string{"GET /status": {`200 {"proxies":{"total":4}}`}, "GET /proxies": {
			`200 {"proxies":[{"id":"a","state":"closed"},{"id":"b","state":"closed","unreached":true}],` +
				`"next_cursor":"2"}`,
			`200 {"proxies":[{"id":"c","state":"closed"},{"id":"d","state":"closed"}],"next_cursor":null}`,
		}})
	}
	for _, c := range []struct {
		args            []string
		requests, query string // query is that of the last page
		ids             string
	}{
		{nil, "GET /proxies, " + listed, "cursor=2&limit=1000&sort=id", "abcd"},
		{[]string{"--limit", "2", "--sort", "latency"}, listed, "limit=2&sort=-avg_latency", "ab"},
		{[]string{"--limit", "2", "--state", "closed"}, "GET /proxies, " + listed,
			"cursor=2&limit=1000&sort=id&state=closed", "ac"},
		{[]string{"--limit", "1", "--sort", "state"}, "GET /proxies, " + listed, "cursor=2&limit=1000", "b"},
		{[]string{"--match", "x"}, "GET /proxies, " + listed, "cursor=2&limit=1000&q=x&sort=id", ""},
	} {
		f := pages()
		out, errs, code := run(append([]string{"proxies", "list", "--json"}, c.args...)...)
		require.Zero(t, code, errs)
		require.Equal(t, c.requests, strings.Join(f.requests, ", "), c.args)
		require.Equal(t, c.query, f.queries["GET /proxies"], c.args)
		var v struct {
			Proxies []struct{ ID string }
			Total   int
		}
		require.NoError(t, json.Unmarshal([]byte(out), &v))
		ids := ""
		for _, p := range v.Proxies {
			ids += p.ID
		}
		require.Equal(t, c.ids, ids, c.args)
		require.Equal(t, 4, v.Total)
	}
}

func TestQueriesOfTop(t *testing.T) {
	for _, c := range []struct {
		q    top.Query
		want string
	}{
		{top.Query{Sort: "per_s"}, "limit=200&sort=-last_used"},
		{top.Query{Sort: "latency", Reversed: true}, "limit=200&sort=avg_latency"},
		{top.Query{Sort: "proxy", Reversed: true, Filter: "x1"}, "limit=200&q=x1&sort=-id"},
		{top.Query{Sort: "proxy", Filter: "Op"}, "limit=200&sort=id&state=open"},
	} {
		l := topParameters(c.q)
		require.Equal(t, c.want, l.Query().Encode())
	}
	for _, column := range top.Columns() {
		require.NotEmpty(t, topOrders[column], column)
	}
}

func TestCompletion(t *testing.T) {
	complete := func(args ...string) string {
		out, _, _ := run(append([]string{"__complete"}, args...)...)
		return out
	}
	newFakeAPI(t, map[string][]string{"GET /proxies": {threeProxies},
		"GET /retry/policy": {`200 {"max_attempts":3,"jitter":false,"source":"file"}`},
		"GET /plugins":      {`200 {"plugins":[{"name":"random"},{"name":"mine"},{"name":"slower","kind":"backoff"}]}`},
		"GET /proxy-groups": {`200 {"groups":[{"name":"DE"},{"name":""}]}`}})
	require.Equal(t, "b\nc\n:4\n", complete("proxies", "ban", "a", ""))
	require.Equal(t, "jitter=\nmax_attempts=\n:6\n", complete("policy", "set", ""))
	require.Equal(t, "max_attempts=\n:6\n", complete("policy", "set", "jitter=true", ""))
	require.Equal(t, "jitter=false\njitter=true\n:4\n", complete("policy", "set", "jitter="))
	require.Equal(t, "timeout=null\n:4\n", complete("policy", "set", "timeout="))
	require.Equal(t, ":4\n", complete("policy", "set", "max_attempts="))
	require.Equal(t, "mine\n:4\n", complete("plugin", "activate", "m"))
	require.Equal(t, "first\nretry\nbackoff\njudge\n:4\n", complete("plugin", "activate", "mine", ""))
	require.Contains(t, complete("proxies", "list", "--state", ""), "half_open\n")
	require.Contains(t, complete("request", "http://x/", "--priority", ""), "low\n")
	require.Equal(t, "backoff_strategy=slower\n:4\n", complete("policy", "set", "backoff_strategy="))
	require.Equal(t, "DE\n:4\n", complete("proxies", "list", "--region", ""))
	require.Equal(t, "DE\n:4\n", complete("request", "http://x/", "--region", ""))
	require.Equal(t, "DE\n:4\n", complete("proxies", "ban", "--reason", "")) // the fake has one list of groups
	require.Equal(t, "DE\n:4\n", complete("proxies", "list", "--vendor", ""))
	require.Contains(t, complete("route", "http://x/", "--method", ""), "POST\n")
	require.Contains(t, complete("plugin", "new", "x", "--lang", ""), "go\n")
	require.Equal(t, "debug\ninfo\nwarn\nerror\n:4\n", complete("serve", "--log-level", ""))
	for _, command := range [][]string{{"check", "list.txt"}, {"proxies", "add"}} {
		require.Contains(t, complete(append(command, "--scheme", "")...), "socks5h\n")
	}
	require.Equal(t, "first\nretry\nbackoff\njudge\n:4\n", complete("plugin", "push", "x.wasm", "--activate", ""))
	require.Contains(t, complete("plugin", "simulate", "x.wasm", "--generate", ""), "outage\n")
	types := complete("events", "--type", "ban,")
	require.Contains(t, types, "ban,breaker\n")
	require.NotContains(t, types, "ban,ban\n")
	t.Setenv(urlVar, "http://127.0.0.1:1")
	require.Equal(t, ":4\n", complete("proxies", "reset", ""))
}

func TestVersionAsJSON(t *testing.T) {
	out, errs, code := run("version", "--json")
	require.Zero(t, code, errs)
	var b buildInfo
	require.NoError(t, json.Unmarshal([]byte(out), &b))
	require.Equal(t, version, b.Version)
	require.Contains(t, b.Go, "go1.")
	require.Contains(t, b.Platform, "/")

	before := commit
	defer func() { commit = before }()
	for set, want := range map[string]buildInfo{"0123": {Commit: "0123"},
		"0123-dirty": {Commit: "0123", Modified: true}} {
		commit = set
		b := readBuildInfo()
		require.Equal(t, want, buildInfo{Commit: b.Commit, Modified: b.Modified})
	}
}

// The API gets each option of a line.
func TestNewProxyHasTheOptionsOfALine(t *testing.T) {
	list, err := parseProxies("http://u:p@h.test:1#id=a&region=DE&tags=x,y&weight=2&cost=3&max_in_flight=4&rate=5&"+
		"min_interval=6s&bytes_per_day=7&tier=8&vendor=v&cost_per_request=9&cost_per_gb=10&reuse=false", "http", "")
	require.NoError(t, err)
	text, err := json.Marshal(list[0])
	require.NoError(t, err)
	require.JSONEq(t, `{"id": "a", "url": "http://u:p@h.test:1", "region": "DE", "tags": ["x", "y"], "weight": 2,
		"cost": 3, "max_in_flight": 4, "rate": 5, "min_interval": "6s", "bytes_per_day": 7, "tier": 8, "vendor": "v",
		"cost_per_request": 9, "cost_per_gb": 10, "reuse": false, "metadata": {"tier": "8", "vendor": "v"}}`,
		string(text))
}

func TestIDsOfAddedProxies(t *testing.T) {
	const two = "http://ann:secret@gw.test:1\nhttp://bob:secret@gw.test:1"
	list, err := parseProxies(two, "http", "{user}@{host}")
	require.NoError(t, err)
	require.Equal(t, "ann@gw.test bob@gw.test", list[0].ID+" "+list[1].ID)
	list, err = parseProxies(`[{"ip":"192.0.2.1","port":1,"id":"vendors"}]`, "http", "ws-{host}")
	require.NoError(t, err)
	require.Equal(t, "ws-192.0.2.1", list[0].ID)
	list, err = parseProxies("http://a:1", "http", "x")
	require.NoError(t, err)
	require.Equal(t, "x", list[0].ID)
	_, err = parseProxies(two, "http", "x")
	require.ErrorContains(t, err, "--id is for one proxy; there are 2: give a text with placeholders")
	_, err = parseProxies(two, "http", "{usr}")
	require.ErrorContains(t, err, `--id has the unknown placeholder "{usr}"; did you mean {user}?`)
}

// firstWrite closes written at the first write.
type firstWrite struct {
	once    sync.Once
	written chan struct{}
}

func (w *firstWrite) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.written) })
	return len(p), nil
}

// A command with several proxies prints each result as soon as the result is known, because tests of many proxies take
// long.
func TestResultsOfProxiesArePrintedAtOnce(t *testing.T) {
	out := &firstWrite{written: make(chan struct{})}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/b/") {
			select {
			case <-out.written:
			case <-time.After(time.Minute):
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
		}
		io.WriteString(w, `{"kind":"connection","passed":true,"latency":0.001}`)
	}))
	defer api.Close()
	cmd := rootCommand()
	cmd.SetOut(out)
	cmd.SetArgs([]string{"proxies", "test", "a", "b", "--url", api.URL})
	require.NoError(t, cmd.Execute())
	require.Greater(t, testTimeout, 2*10*time.Minute, "timeouts.connect is at most 10m")
}

// The first proxy's test ends last, and its result is printed first.
func TestProxiesAreTestedAtTheSameTime(t *testing.T) {
	ids := []string{"a", "b", "c", "d"}
	arrived, ended := sync.WaitGroup{}, map[string]chan struct{}{}
	arrived.Add(len(ids))
	for _, id := range ids {
		ended[id] = make(chan struct{})
	}
	close(ended["d"])
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api/v1/proxies/"), "/test")
		arrived.Done()
		arrived.Wait()
		<-ended[id]
		if id == "b" {
			io.WriteString(w, `{"kind":"connection","error":"refused"}`)
		} else {
			io.WriteString(w, `{"kind":"connection","passed":true,"latency":0.002}`)
		}
		if before := slices.Index(ids, id) - 1; before >= 0 {
			close(ended[ids[before]])
		}
	}))
	defer api.Close()
	out, errs, code := run(append([]string{"proxies", "test", "--url", api.URL}, ids...)...)
	require.Equal(t, exitFailed, code)
	require.Equal(t, "b: refused\n1 of 4 proxies failed\n", errs)
	require.Regexp(t, `^a is reachable.*\nc is reachable.*\nd is reachable.*\n$`, out)
}

func TestWaitShowsProgressOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shown strings.Builder
		arrived := make(chan outcome, 1)
		time.AfterFunc(250*time.Millisecond, func() { arrived <- outcome{text: "works"} })
		o := waitLive(arrived, true, &shown, func() string { return "1 of 2" })
		require.Equal(t, "works", o.text)
		require.Equal(t, "\r1 of 2 \r1 of 2 \r\x1b[K", shown.String())
	})
}

func TestAdviceOnTheURLAndTheKey(t *testing.T) {
	respond := func(text string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			io.WriteString(w, text)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	proxy := respond(`{"error":"bad_target","message":"this is an HTTP proxy: send requests with ..."}`)
	refused := newFakeAPI(t, map[string][]string{"GET /plugins": {`401 {"error":"unauthorized","message":"no"}`}})
	encrypted := httptest.NewUnstartedServer(nil)
	encrypted.Config.ErrorLog = log.New(io.Discard, "", 0)
	encrypted.StartTLS()
	t.Cleanup(encrypted.Close)
	closes := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(closes.Close)
	for _, c := range []struct {
		url, key string
		says     string
	}{
		{proxy, "", "is the proxy port of the gateway, not its API; set --url to the API (api.listen, port 8889"},
		{strings.Replace(proxy, "http", "https", 1), "", "set --url to an http:// address"},
		{encrypted.URL, "", "set SSL_CERT_FILE to a file with the authority of the API's certificate"},
		{closes.URL, "", "if the API uses TLS (api.tls), set --url to an https:// address"},
		{strings.TrimPrefix(proxy, "http://"), "", "did you mean " + proxy + "?"},
		{"http://127.0.0.1:1", "", "start the gateway (whirlpool serve), or set another address with --url"},
		{refused.URL, "", "needs a key; give it in --key-file or $WHIRLPOOL_API_KEY"},
		{refused.URL, "wrong", "refuses the key; give a key of its [[api.keys]] in --key-file"},
	} {
		t.Setenv(keyVar, c.key)
		_, errs, code := run("plugin", "list", "--url", c.url)
		require.NotZero(t, code)
		require.Contains(t, errs, c.says)
		require.NotContains(t, errs, "wrong")
	}
}
