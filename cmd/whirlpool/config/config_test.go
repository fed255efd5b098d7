package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/geo/geotest"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/otlp"
	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/metrics/push"
	"github.com/whirlpool-proxy/whirlpool/core/queue"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/traffic"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func load(t testing.TB, text string, change func(*Source)) (*Config, error) {
	path := filepath.Join(t.TempDir(), "koanf.toml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	src := Source{File: path}
	if change != nil {
		change(&src)
	}
	return Load(src)
}

// The watched files are always listed in the same order. Otherwise each comparison would find a change, and
// lead to a reload.
func TestFilesHaveAnOrder(t *testing.T) {
	text := ""
	for i := range 8 {
		text += fmt.Sprintf("[plugins.p%d]\npath = \"p%d.wasm\"\n", i, i)
	}
	c, err := load(t, text, nil)
	require.NoError(t, err)
	files := c.Files()
	require.Len(t, files, 8)
	for range 20 {
		require.Equal(t, files, c.Files())
	}
}

// The koanf.toml of the repository has the same values as an empty file.
func TestTheShippedFile(t *testing.T) {
	shipped, err := Load(Source{File: "../../../koanf.toml"})
	require.NoError(t, err)
	empty, err := load(t, "", nil)
	require.NoError(t, err)
	assert.Equal(t, empty.Gateway, shipped.Gateway)
	assert.Equal(t, empty.API, shipped.API)
	assert.Equal(t, empty.Policy, shipped.Policy)
	assert.Equal(t, empty.Timeouts, shipped.Timeouts)
	assert.Equal(t, empty.Breaker, shipped.Breaker)
	assert.Equal(t, empty.Health, shipped.Health)
	assert.Equal(t, empty.Selection, shipped.Selection)
	assert.Equal(t, empty.Metrics, shipped.Metrics)
	assert.Equal(t, empty.Pool, shipped.Pool)
	assert.Equal(t, empty.RetryBudget, shipped.RetryBudget)
	assert.Equal(t, empty.PluginHost, shipped.PluginHost)
	assert.Equal(t, State{Dir: "../../../koanf.toml.state", Implied: true}, shipped.State)
	assert.Equal(t, empty.Log, shipped.Log)
}

// Without the key state.dir, the state folder lies beside the configuration file. Without a configuration file there is
// no state folder.
func TestTheDefaultOfTheStateFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "koanf.toml")
	c, err := Load(Source{File: file, Optional: true})
	require.NoError(t, err)
	assert.Equal(t, State{Implied: true}, c.State)
	for text, want := range map[string]State{
		"":                            {Dir: file + ".state", Implied: true},
		"[state]\n":                   {Dir: file + ".state", Implied: true},
		"[state]\ndir = \"\"\n":       {},
		"[state]\ndir = \"/var/w\"\n": {Dir: "/var/w"},
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		c, err := Load(Source{File: file})
		require.NoError(t, err)
		assert.Equal(t, want, c.State, text)
	}
	c, err = Load(Source{File: file, Environ: []string{"WHIRLPOOL_STATE__DIR=/env"}})
	require.NoError(t, err)
	assert.Equal(t, State{Dir: "/env"}, c.State)
}

// The koanf.toml of the repository contains every key. The keys without a default are in comments.
func TestTheShippedFileShowsEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../../koanf.toml")
	require.NoError(t, err)
	shown := map[string]any{}
	require.NoError(t, toml.Unmarshal(regexp.MustCompile(`(?m)^# (\[|\w+ = )`).ReplaceAll(text, []byte("$1")), &shown))
	var look func(path string, of reflect.Type, at any)
	look = func(path string, of reflect.Type, at any) {
		switch of.Kind() {
		case reflect.Pointer:
			look(path, of.Elem(), at)
		case reflect.Slice:
			if of.Elem().Kind() == reflect.Struct {
				require.NotEmpty(t, at, path)
				list := at.([]any)
				look(path, of.Elem(), list[len(list)-1])
			}
		case reflect.Struct:
			for i := range of.NumField() {
				if name := of.Field(i).Tag.Get("koanf"); name != "" && name != "-" {
					require.Contains(t, at, name, path)
					look(strict.Join(path, name), of.Field(i).Type, at.(map[string]any)[name])
				}
			}
		}
	}
	look("", reflect.TypeFor[Config](), shown)
	look("plugins", reflect.TypeFor[PluginHost](), shown["plugins"])
	look("plugins.mine", reflect.TypeFor[Plugin](), shown["plugins"].(map[string]any)["mine"])
	policy, err := json.Marshal(retry.DefaultPolicy())
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(policy, &fields))
	require.ElementsMatch(t, slices.Collect(maps.Keys(fields)),
		slices.Collect(maps.Keys(shown["retry"].(map[string]any))))
}

// The parts of a rule reach the engine. host, method and status may be single values or lists.
func TestRules(t *testing.T) {
	c, err := load(t, `
[[rules]]
preset = "ban_like"
[[rules]]
when = { host = ["*.a.test", "b.test"], method = "GET", status = [403, "500-599"], header = { Server = "x*" },
  body = "y" }
then = { rest = "10m", ban = 60, blame = "proxy", max_attempts = 10 }
[[rules]]
when = { error = "tunnel_refused" }
then = { final = true }
`, nil)
	require.NoError(t, err)
	require.Equal(t, []rules.Rule{{Preset: "ban_like"}, {
		When: rules.Conditions{Hosts: []string{"*.a.test", "b.test"}, Methods: []string{"GET"},
			Statuses: []string{"403", "500-599"}, Headers: map[string]string{"Server": "x*"}, Body: "y"},
		Then: rules.Actions{Rest: 10 * time.Minute, Ban: time.Minute, Blame: "proxy", MaxAttempts: 10},
	}, {When: rules.Conditions{Error: "tunnel_refused"}, Then: rules.Actions{Final: true}}}, c.Engine().Rules)
	c, err = load(t, "", nil)
	require.NoError(t, err)
	require.Empty(t, c.Engine().Rules)
}

// The engine gets the parts of a rule that are about requests, and the tags of proxies.
func TestRoutingRules(t *testing.T) {
	c, err := load(t, `
[[gateway.users]]
name = "crawler"
password = "secret"
[[proxies]]
url = "http://a.test:1"
region = "us"
tags = ["res", "fast"]
[[rules]]
name = "shop"
when = { host = "a.test", port = [443, "8000-8999"], path = "/api/*", user = "crawl*" }
then = { tag = "rez", region = "uk", prefer = true, scorer = "weighted",
  policy = { max_attempts = 5, timeout = "null", attempt_timeout = 4 } }
[[rules]]
when = { method = "CONNECT" }
then = { pool = true }
[[rules]]
when = { port = 1 }
then = { direct = true, interim = true }
[[rules]]
when = { port = 2 }
then = { deny = true }
`, nil)
	require.NoError(t, err)
	five := 5
	require.Equal(t, []rules.Rule{
		{Name: "shop", When: rules.Conditions{Hosts: []string{"a.test"}, Ports: []string{"443", "8000-8999"},
			Paths: []string{"/api/*"}, Users: []string{"crawl*"}}, Then: rules.Actions{Routing: rules.Routing{
			Tag: "rez", Region: "uk", Prefer: true, Scorer: "weighted",
			Policy: &rules.Policy{AttemptTimeout: 4, Override: retry.Override{
				MaxAttempts: &five, Timeout: strict.Nullable{Set: true}}}}}},
		{When: rules.Conditions{Methods: []string{"CONNECT"}}, Then: rules.Actions{Routing: rules.Routing{Pool: true}}},
		{When: rules.Conditions{Ports: []string{"1"}}, Then: rules.Actions{Routing: rules.Routing{Direct: true,
			Interim: true}}},
		{When: rules.Conditions{Ports: []string{"2"}}, Then: rules.Actions{Routing: rules.Routing{Deny: true}}},
	}, c.Engine().Rules)
	require.Equal(t, []string{"res", "fast"}, c.Engine().Proxies[0].Tags)
	require.Len(t, c.Warnings, 2)
	require.Contains(t, c.Warnings[0], ":12: rules[0].then.tag: no configured proxy has the tag rez; did you mean res?")
	require.Contains(t, c.Warnings[1], "rules[0].then.region: no configured proxy is of the region uk; did you mean "+
		"us?")

	// All faults are reported at once, each with its key and line.
	_, err = load(t, `
[[gateway.users]]
name = "crawler"
password = "secret"
[[proxies]]
url = "http://a.test:1"
tags = ["a", "a b"]
[[rules]]
when = { user = ["crawlers", "*"], port = "99999" }
then = { tag = "a", deny = true, Scorer = "x" }
[[rules]]
when = { host = "*", status = 403 }
then = { policy = { max_attempts = 11, base_delay = "x", attempt_timeout = 0.001, tries = 2 } }
`, nil)
	for _, part := range []string{
		":7: proxies[0].tags[1]",
		`:9: rules[0].when.user[0] = "crawlers": is not the name of one of [[gateway.users]]; did you mean crawler?`,
		`:9: rules[0].when.port = "99999": must be a port`, ":10: rules[0].then.deny: contradicts tag",
		":10: rules[0].then.Scorer: unknown field; did you mean scorer?",
		":12: rules[1].when.status: is unknown when the way",
		":13: rules[1].then.policy.max_attempts = 11: must be 1 to 10",
		`:13: rules[1].then.policy.base_delay = "x": must be a number`,
		":13: rules[1].then.policy.attempt_timeout = 0.001: must be 0.01 to 3600 seconds",
		":13: rules[1].then.policy.tries: unknown field",
	} {
		require.ErrorContains(t, err, part)
	}
	require.Len(t, err.(*Error).Faults, 10)

	// All faults of one entry are reported.
	_, err = load(t, `[[proxies]]
url = "ftp://x"
weight = -1
cost = -1
tier = 101
rate = -1
max_in_flight = -1
auth = "basic"
tags = ["a b", "a", "a"]
own_error = { status = 200, header = "a b" }
breaker = { failure_threshold = 0, window_duration = "0s" }
[[limits]]
host = "http://x"
rate = -1
[[limits]]
[health]
interval = "0s"
exit = "a b"
`, nil)
	keys := []string{}
	for _, f := range err.(*Error).Faults {
		keys = append(keys, f.Key)
	}
	slices.Sort(keys)
	require.Equal(t, []string{"health.exit", "health.interval", "limits[0].host", "limits[0].rate", "limits[1]",
		"proxies[0].auth", "proxies[0].breaker.failure_threshold", "proxies[0].breaker.window_duration",
		"proxies[0].cost", "proxies[0].max_in_flight", "proxies[0].own_error[0].header",
		"proxies[0].own_error[0].status", "proxies[0].rate", "proxies[0].tags[0]", "proxies[0].tags[2]",
		"proxies[0].tier", "proxies[0].url", "proxies[0].weight"}, keys)
	_, err = load(t, "[[rules]]\nwhen = { user = \"*\" }\nthen = { direct = true }\n", nil)
	require.ErrorContains(t, err, `rules[0].when.user = "*": holds for no request, because there are no `+
		`[[gateway.users]]`)
}

// TestOwnErrors: own_error is one rule, or a list of rules.
func TestOwnErrors(t *testing.T) {
	c, err := load(t, `
[[proxies]]
url = "http://a:1"
own_error = { status = 500, header = "X-Error: quota", body = "Out of traffic" }
[[proxies]]
url = "http://b:1"
own_error = [{ status = 500 }, { header = "X-Error" }]
[[proxies]]
url = "http://c:1"
[[proxies.own_error]]
body = "Out of traffic"
[[proxies]]
url = "http://d:1"
`, nil)
	require.NoError(t, err)
	specs := c.specs
	require.Equal(t, []upstream.OwnError{{Status: 500, Header: "X-Error: quota", Body: "Out of traffic"}},
		specs[0].Extra().OwnErrors)
	require.Equal(t, []upstream.OwnError{{Status: 500}, {Header: "X-Error"}}, specs[1].Extra().OwnErrors)
	require.Equal(t, []upstream.OwnError{{Body: "Out of traffic"}}, specs[2].Extra().OwnErrors)
	require.Empty(t, specs[3].Extra().OwnErrors)
}

func TestTraces(t *testing.T) {
	c, err := load(t, "[traces]\nendpoint = \"http://h:4318/v1/traces?key=secret\"\nratio = 0.5\n", nil)
	require.NoError(t, err)
	require.Equal(t, otlp.Settings{Endpoint: "http://h:4318/v1/traces?key=secret", Ratio: 0.5}, c.TraceSettings())
	shown, err := json.Marshal(c.Traces)
	require.NoError(t, err)
	require.JSONEq(t, `{"endpoint":"http://h:4318/v1/traces?***","ratio":0.5}`, string(shown))
	c, err = load(t, "", nil)
	require.NoError(t, err)
	require.Equal(t, otlp.Settings{Ratio: 1}, c.TraceSettings())
}

func TestCluster(t *testing.T) {
	c, err := load(t, "[cluster]\nurl = \"rediss://u:secret@h:6380/2?sentinel_password=secret\"\nnode = \"a\"\n", nil)
	require.NoError(t, err)
	shown, err := json.Marshal(c.Cluster)
	require.NoError(t, err)
	require.JSONEq(t, `{"url":"rediss://h:6380/2","name":"whirlpool","node":"a","limits":"shared"}`, string(shown))
	c, err = load(t, "", nil)
	require.NoError(t, err)
	require.Equal(t, Cluster{Name: "whirlpool", Limits: LimitsShared}, c.Cluster)
}

func TestMaxProxiesOfMetrics(t *testing.T) {
	c, err := load(t, "[metrics]\nmax_proxies = 7\n", nil)
	require.NoError(t, err)
	require.Equal(t, 7, c.Engine().MetricProxies)
	c, err = load(t, "", nil)
	require.NoError(t, err)
	require.Equal(t, 100, c.Engine().MetricProxies)
}

func TestPushOfMetrics(t *testing.T) {
	c, err := load(t, "[metrics]\nstatsd = \"s.test:8125\"\nstatsd_prefix = \"p\"\nm3 = \"m.test:9052\"\n"+
		"m3_service = \"a\"\nm3_env = \"b\"\npush_interval = \"3s\"\n", nil)
	require.NoError(t, err)
	require.Equal(t, push.Settings{Interval: 3 * time.Second, Statsd: "s.test:8125", StatsdPrefix: "p",
		M3: "m.test:9052", M3Service: "a", M3Env: "b"}, c.PushSettings())
	c, err = load(t, "", nil)
	require.NoError(t, err)
	require.Equal(t, push.Settings{Interval: 10 * time.Second, StatsdPrefix: "whirlpool", M3Service: "whirlpool",
		M3Env: "production"}, c.PushSettings())
}

func TestAuth(t *testing.T) {
	c, err := load(t, "[[proxies]]\nurl = \"http://a:1\"\n[[proxies]]\nurl = \"http://b:1\"\nauth = \"digest\"\n", nil)
	require.NoError(t, err)
	require.Equal(t, []string{"", upstream.AuthDigest}, []string{c.specs[0].Extra().Auth, c.specs[1].Extra().Auth})
	for _, wrong := range []string{"http://a:1\"\nauth = \"ntlm", "socks5://a:1\"\nauth = \"digest"} {
		_, err = load(t, "[[proxies]]\nurl = \""+wrong+"\"\n", nil)
		require.ErrorContains(t, err, "proxies[0].auth")
	}
}

func TestReuse(t *testing.T) {
	c, err := load(t, "[[proxies]]\nurl = \"http://a:1\"\n[[proxies]]\nurl = \"http://b:1\"\nreuse = false\n", nil)
	require.NoError(t, err)
	require.False(t, c.specs[0].Extra().NoReuse)
	require.True(t, *c.Proxies[0].Reuse)
	require.True(t, c.specs[1].Extra().NoReuse)
}

func TestFaultsInTablesOfLists(t *testing.T) {
	for text, want := range map[string]string{
		"files = [\n{ fil = \"x\", scheme = \"socks5\" }]\n":   ":3: pool.files[0].fil: unknown field; did you",
		"files = [{ file = \"x\", schema = \"http\" }]\n":      "[0].schema: unknown field; did you mean scheme?",
		"files = [{ file = \"x\", scheme = \"sock5\" }]\n":     ":2: pool.files[0].scheme: must be http, https, ",
		"files = [{ scheme = \"http\" }]\n":                    ":2: pool.files[0].file: is missing",
		"[[pool.files]]\nfile = 5\n":                           ":3: pool.files[0].file: ",
		"[[pool.files]]\nfile = \"x\"\nscheme = \"socks\"\n":   "; did you mean socks4?",
		"[[pool.files]]\nfile = \"absent.txt\"\n":              ":2: pool.files[0]: open ",
		"files = [{ file = 'x', id = '{usr}' }]\n":             `:2: pool.files[0].id: has the unknown placeholder`,
		"files = [{ file = \"x\", id = \"{password}\" }]\n":    "[0].id: must not have the password",
		"urls = [{ url = \"http://x\", id = \"a\" }]\n":        ":2: pool.urls[0].id: has no placeholder",
		"files = [\"absent.txt\", { fil = \"x\" }]\nurl = 5\n": ":2: pool.files[1].fil: unknown field",
	} {
		_, err := load(t, "[pool]\n"+text, nil)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "not a table")
		require.NotContains(t, err.Error(), "must be the path of a file")
	}
}

// The template of a list makes the ids of its proxies; the id of an entry of [[proxies]] may be a template, too.
func TestTemplatesOfIDs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "list.txt")
	require.NoError(t, os.WriteFile(path,
		[]byte("ann:secret@gw.test:80\nhttp://bob:secret@gw.test:80#id=own\n"), 0o600))
	text := fmt.Sprintf(`
[[proxies]]
id = "{user}@{host}"
url = "http://{env:LOGIN}:secret@one.test:1"
[[proxies]]
id = "{user}@{host}"
url = "http://b:secret@one.test:1"
[pool]
files = ["%[1]s", { file = "%[1]s", scheme = "socks5", id = "{user}@{host}:{port}" }]
urls = [{ url = "http://lists.test/", id = "{scheme}-{user}" }]
`, path)
	c, err := load(t, text, func(s *Source) {
		s.Environ = []string{"LOGIN=ann"}
		s.Fetched = map[string][]byte{"http://lists.test/": []byte(
			`[{"host":"gw.test","port":80,"user":"eve","password":"secret","id":"vendors"}]`)}
	})
	require.NoError(t, err)
	upstream.AssignIDs(c.specs)
	ids := make([]string, len(c.specs))
	for i := range c.specs {
		ids[i] = c.specs[i].ID
	}
	require.Equal(t, []string{"ann@one.test", "b@one.test", "gw.test:80", "own", "ann@gw.test:80", "http-eve"}, ids)
	require.Equal(t, []string{"ann@gw.test:80"}, c.Readings[1].IDs)
	require.Empty(t, c.Readings[0].IDs)
	shown, err := json.Marshal(c.Pool)
	require.NoError(t, err)
	require.JSONEq(t, fmt.Sprintf(`{"files": [%[1]q, {"file": %[1]q, "scheme": "socks5", "id": "{user}@{host}:{port}"}],
		"urls": [{"url": "http://lists.test/", "id": "{scheme}-{user}", "refresh": "0s"}]}`, path), string(shown))

	_, err = load(t, "[[proxies]]\nurl = \"http://a:1\"\nid = \"{hots}\"\n", nil)
	require.ErrorContains(t, err, `:3: proxies[0].id: has the unknown placeholder "{hots}"; did you mean {host}?`)
}

func TestFaultsNameKeyLineAndValue(t *testing.T) {
	for text, want := range map[string][]string{
		"[gateway]\nlisten = 5\n":                {"gateway.listen", ":2: "},
		"[gateway]\nlisten = \"h:99999\"\n":      {"gateway.listen", "a port of at most 65535"},
		"[gateway]\nlisen = \"x:1\"\n":           {"gateway.lisen", ":2: ", "listen"},
		"\n[[proxy]]\nurl = \"http://h:1\"\n":    {"proxy", ":2: ", "did you mean proxies?"},
		"[retry]\ntimeout = null\n":              {":2: ", `needs quotes, as in "null"`},
		"[pool]\nfiles = [\"sock5:list.txt\"]\n": {"pool.files[0]", ":2: ", "did you mean socks5?"},
		"[[rules]]\nwhen = { error = \"tunel_refused\" }\nthen = { retry = true }\n": {"rules[0].when.error", ":2: ",
			"did you mean tunnel_refused?"},
		"[log]\nlevel = \"warning\"\n":                        {"log.level", ":2: ", "did you mean warn?"},
		"\n\n[retry]\nmax_attempts = 11\n":                    {"retry.max_attempts", ":4: ", "11"},
		"[timeouts]\nattempt = \"ten\"\n":                     {"timeouts.attempt", ":2: ", "ten"},
		"[[proxies]]\nurl = \"http://h:1\"\nreuse = \"no\"\n": {"proxies[0].reuse", ":3: "},
		"[breaker]\nfailure_threshold = 0\n":                  {"breaker.failure_threshold", ":2: "},
		"[[proxies]]\nurl = \"http://h:1\"\n" +
			"breaker = { failure_threshold = 0 }\n": {"proxies[0].breaker.failure_threshold", ":3: "},
		"[[proxies]]\nurl = \"http://h:1\"\n" +
			"own_error = { status = 200 }\n": {"proxies[0].own_error[0].status", ":3: ",
			"is 200; it must be 400 to 999"},
		"[[proxies]]\nurl = \"http://h:1\"\n" +
			"own_error = {}\n": {"proxies[0].own_error[0]", ":3: ", "names no status, header or body"},
		"[[proxies]]\nurl = \"http://h:1\"\nown_error = [{ status = 500 },\n" +
			" { header = \"a b\" }]\n": {"proxies[0].own_error[1].header", ":4: ",
			"must be the name of a header field"},
		"[[proxies]]\nurl = \"http://h:1\"\n" +
			"own_error = { text = \"x\" }\n": {"proxies[0].own_error[0].text", ":3: ", "body, header, status"},
		"[[proxies]]\nurl = \"http://h:1\"\n" +
			"own_error = 500\n": {"proxies[0].own_error", ":3: ", "must be a list"},
		"[[proxies]]\nurl = \"http://h:1\"\nrate = -1\n":     {"proxies[0].rate", ":3: ", "rate is -1"},
		"[[proxies]]\nurl = \"http://h:1\"\ntier = 101\n":    {"proxies[0].tier", ":3: ", "0 to 100"},
		"[selection]\ntier_attempts = 0\n":                   {"selection.tier_attempts", ":2: ", "1"},
		"[[limits]]\nrate = 1\n[[limits]]\nrate = 2000000\n": {"limits[1].rate", ":4: ", "0 to 1000000"},
		"[[limits]]\nhost = \"http://a\"\nrate = 1\n":        {"limits[0].host", ":2: ", "without scheme"},
		"[[limits]]\nhost = \"a\"\n":                         {"limits[0]", ":1: ", "sets no limit"},
		// 2^64 ns plus 0.3 s
		"[breaker]\nwindow_duration = 18446744074\n":   {"breaker.window_duration", ":2: ", "a duration such as"},
		"[breaker]\nblame = \"both\"\n":                {"breaker.blame", ":2: "},
		"[log]\naccess = \"1\"\n":                      {"log.access", ":2: ", "percentage"},
		"[log]\naccess_format = \"xml\"\n":             {"log.access_format", ":2: ", "combined"},
		"[[proxies]]\nid = \"a\"\nurl = \"ftp://x\"\n": {"proxies[0].url", ":3: "},
		"[pool]\nurls = [{ url = \"list.txt\" }]\n":    {"pool.urls[0].url", ":2: ", "https://"},
		"[pool]\nurls = [{ url = \"http://a\", scheme = \"ftp\" }]\n": {"pool.urls[0].scheme", ":2: ",
			"socks5h"},
		"[pool]\nurls = [{ url = \"http://a\", refresh = \"1s\" }]\n": {"pool.urls[0].refresh", ":2: ", "10s"},
		"[pool]\nurls = [{ scheme = \"http\" }]\n":                    {"pool.urls[0].url", ":2: "},
		"[[proxies]]\nurl = \"http://a:1\"\nid = \"x\"\n[[proxies]]\nurl = \"http://b:1\"\nid = \"x\"\n": {"proxies[1]",
			"x"},
		"[metrics]\nretention_hours = 169\n": {"metrics.retention_hours", ":2: ", "169"},
		"[cluster]\nurl = \"h:6379\"\n":      {"cluster.url", ":2: ", "redis://127.0.0.1:6379"},
		"[cluster]\nurl = \"rediss://h?skip_verify=1\"\n": {"cluster.url", ":2: ", `"skip_verify"`,
			"the parameters are addr, ca"},
		"[cluster]\nname = \"\"\n":            {"cluster.name", ":2: ", "1 to 64"},
		"[cluster]\nnode = \"a b\"\n":         {"cluster.node", ":2: ", "a b"},
		"[cluster]\nlimits = \"no\"\n":        {"cluster.limits", ":2: ", "shared"},
		"[traces]\nratio = 2\n":               {"traces.ratio", ":2: ", "must be 0 to 1"},
		"[traces]\nendpoint = \"h:4318\"\n":   {"traces.endpoint", ":2: ", "v1/traces"},
		"[metrics]\nstatsd = \"8125\"\n":      {"metrics.statsd", ":2: ", "must be host:port"},
		"[metrics]\nm3 = \"http://h:1\"\n":    {"metrics.m3", ":2: ", "must be host:port"},
		"[metrics]\nm3_env = \"\"\n":          {"metrics.m3_env", ":2: ", "must not be empty"},
		"[metrics]\nstatsd_prefix = \"a:\"\n": {"metrics.statsd_prefix", ":2: ", "none of the characters"},
		"[metrics]\npush_interval = \"0s\"\n": {"metrics.push_interval", ":2: ", "1s"},
		"[metrics]\nmax_proxies = 10001\n":    {"metrics.max_proxies", ":2: ", "must be 0 to 10000"},
		"[[proxies]]\nurl = \"http://a:1\"\n" +
			"weight = 0\n": {"proxies[0].weight", ":3: ", "above 0"},
		"[gateway]\nmax_connections = -1\n": {"gateway.max_connections", ":2: ", "must be 0 to 16777216"},
		"[gateway]\nmax_connections_per_client = -1\n": {"gateway.max_connections_per_client", ":2: ",
			"must be 0 to 16777216"},
		"[gateway]\nmin_body_rate = -1\n": {"gateway.min_body_rate", ":2: ", "must be 0 to 1000000000"},
		"[log]\nlevel = \"loud\"\n": {"log.level",
			":2: ", "loud"},
		"[selection]\nmemory = \"25h\"\n": {"selection.memory", ":2: ", "must be 0s to 24h"},
		"[plugins.a]\npath = \"a\"\nbuiltin = \"ban_like\"\n": {"plugins.a.builtin", ":3: ",
			"cannot be set together with path"},
		"[plugins.a]\nbuiltin = \"ban_like\"\nkind = \"jury\"\n": {"plugins.a.kind", ":3: ",
			"must be scorer, backoff or judge"},
		"[egress]\ndeny = [\"a\", \"10.0.0.1/8\"]\n": {"egress.deny[1]", ":2: ", "did you mean 10.0.0.0/8"},
		"[[rules]]\nwhen = { status = 403 }\nthen = { final = true,\n rest = \"1m\" }\n": {"rules[0].then.final",
			":3: ",
			"contradicts"},
		"[[rules]]\nwhen = { status = [403,\n 99] }\nthen = { retry = true }\n": {"rules[0].when.status[1]", ":3: ",
			`"99"`, "from 100 to 599"},
		"[[rules]]\nwhen = { status = 4.5 }\nthen = { retry = true }\n": {"rules[0].when.status", ":2: ",
			"must be a number such as 403"},
		"[[rules]]\nwhen = { host = [] }\nthen = { retry = true }\n": {"rules[0].when.host", ":2: ", "empty list"},
		"[[rules]]\nwhen = { host = \"http://a\" }\nthen = { retry = true }\n": {"rules[0].when.host", ":2: ",
			"without scheme"},
		"[[rules]]\nwhen = { error = \"nope\" }\nthen = { retry = true }\n": {"rules[0].when.error", ":2: ", `"nope"`,
			"tunnel_refused"},
		"[[rules]]\nwhen = { status = 403 }\nthen = { rest = \"25h\" }\n": {"rules[0].then.rest", ":3: ",
			"must be 1s to 24h"},
		"[[rules]]\npreset = \"bans\"\n":       {"rules[0].preset", ":2: ", `"bans"`, "there is ban_like"},
		"[[rules]]\nthen = { retry = true }\n": {"rules[0]", ":1: ", "is empty"},
		"[egress]\ndeny = [\"a b\", \"c d\"]\nallow = [\":0\"]\ndefault = \"no\"\n": {
			"egress.deny[0]", "egress.deny[1]", "egress.allow[0]", "egress.default"},
		"[health]\nurl = \"ip.example\"\nexpect = { status = 99 }\n": {"health.url", "health.expect.status"},
		"[retry]\ntimeout = \"none\"\nfailover_delay = \"1s\"\n": {"retry.timeout", "retry.failover_delay",
			`must be a number of seconds, or "null"`},
		"[egress]\ndefault = \"no\"\n":  {"egress.default", ":2: ", "must be \"allow\" or \"deny\""},
		"[queue]\nmax_wait = \"11m\"\n": {"queue.max_wait", ":2: ", "must be 0s to 10m"},
		"[queue]\nmax_waiting = -1\n":   {"queue.max_waiting", ":2: ", "must be 0 to 1000000"},
		"[[gateway.users]]\nname = \"a\"\npassword = \"b\"\npriority = \"top\"\n": {"gateway.users[0].priority", ":4: ",
			"must be high, normal or low"},
		"[nonsense]\nx = 1\n": {"nonsense",
			":1: "},
		"[api]\nlisten = \"0.0.0.0:8889\"\n": {"api.listen",
			"api.keys"},
		"[gateway\n": {":1: "},
		"[pool]\nfiles = [\"absent.txt\"]\n": {"pool.files",
			"absent.txt"},
		"[[api.keys]]\nkey = \"hunter22\"\nrole = \"read\"\n[[api.keys]]\nkey = \"hunter22\"\n" +
			"role = \"admin\"\n": {":5: api.keys[1].key: is also the key of api.keys[0]; each key must be different"},
		"[pool]\nfiles = [\"\"]\n":                       {"pool.files[0]", ":2: "},
		"[[proxies]]\nid = \"a\"\n":                      {"proxies[0].url: is missing", ":1: "},
		"[[proxies]]\nurl = \"http://a:1\"\ncost = -1\n": {"proxies[0].cost", ":3: ", "0 to 1e12"},
	} {
		_, err := load(t, text, nil)
		if assert.Error(t, err, text) {
			for _, w := range want {
				assert.Contains(t, err.Error(), w, text)
			}
		}
	}
}

func TestGeo(t *testing.T) {
	file := geotest.Write(t, map[string]string{"192.0.2.0/24": "DE"})
	c, err := load(t, "[geo]\nmmdb = \""+file+"\"\n", nil)
	require.NoError(t, err)
	require.Equal(t, "de", c.Engine().Locate(netip.MustParseAddr("192.0.2.1")))
	require.Contains(t, c.Files(), file, "it is read again when it changes")
	require.Len(t, c.Warnings, 1)
	require.Contains(t, c.Warnings[0], "health.exit")
	c, err = load(t, "", nil)
	require.NoError(t, err)
	require.Nil(t, c.Engine().Locate)
	_, err = load(t, "[geo]\nmmdb = \"absent.mmdb\"\n", nil)
	require.ErrorContains(t, err, ":2: geo.mmdb")
}

func TestTheLimitsOfAFile(t *testing.T) {
	c, err := load(t, `
[[proxies]]
url = "http://a.test:1"
rate = 0.5
min_interval = "2s"
bytes_per_day = "1GiB"
tier = 2
vendor = "acme"
cost_per_request = 0.001
cost_per_gb = 8
[selection]
tier_attempts = 3
[[limits]]
rate = 10
[[limits]]
host = "*.shop.example"
min_interval = "500ms"
max_in_flight = 2
bytes_per_day = "1MiB"
`, nil)
	require.NoError(t, err)
	p := c.Engine().Proxies[0]
	require.Equal(t, 0.5, p.Extra().Rate)
	require.Equal(t, 2*time.Second, p.Extra().MinInterval)
	require.EqualValues(t, 1<<30, p.Extra().BytesPerDay)
	require.Equal(t, 2, p.Tier)
	require.Equal(t, "acme", p.Extra().Vendor)
	require.Equal(t, traffic.Price{Request: 0.001, GB: 8}, p.Extra().Price)
	require.Equal(t, 3, c.Engine().TierAttempts)
	require.Equal(t, []limit.Entry{{Limit: limit.Limit{Rate: 10}}, {Host: "*.shop.example", Limit: limit.Limit{
		MinInterval: 500 * time.Millisecond, MaxInFlight: 2, BytesPerDay: 1 << 20,
	}}}, c.Engine().Limits)
}

// If breaker.blame is "literal", requests wait in a queue only if the file has [queue].
func TestTheQueueOfAFile(t *testing.T) {
	const literal = "[breaker]\nblame = \"literal\"\n"
	for text, want := range map[string]queue.Config{
		"":                                       queue.DefaultConfig(),
		"[queue]\nmax_waiting = 5\n":             {MaxWaiting: 5, MaxWait: time.Second},
		"[queue]\nmax_wait = \"2s\"\n":           {MaxWaiting: 1024, MaxWait: 2 * time.Second},
		literal:                                  {MaxWait: time.Second},
		literal + "[queue]\nmax_wait = \"2s\"\n": {MaxWaiting: 1024, MaxWait: 2 * time.Second},
	} {
		c, err := load(t, text, nil)
		require.NoError(t, err)
		require.Equal(t, want, c.Engine().Queue, text)
	}
	c, err := load(t, "[[gateway.users]]\nname = \"a\"\npassword = \"b\"\npriority = \"low\"\n"+
		"[[gateway.users]]\nname = \"c\"\npassword = \"d\"\n", nil)
	require.NoError(t, err)
	users := c.Engine().Gateway.Users
	require.Equal(t, core.PriorityLow, users[0].Priority)
	require.Equal(t, core.AnyPriority, users[1].Priority)
}

func TestTheJudgeOfAFile(t *testing.T) {
	c, err := load(t, "[selection]\njudge = \"bans\"\n[plugins.bans]\nbuiltin = \"ban_like\"\nkind = \"judge\"\n"+
		"[plugins.bans.config]\nbody = [\"captcha\"]\n", nil)
	require.NoError(t, err)
	require.Equal(t, "bans", c.Engine().Judge)
	require.Equal(t, plugins.Spec{Builtin: "ban_like", Kind: wasmhost.Judge,
		Config: map[string]any{"body": []any{"captcha"}}}, c.Modules()["bans"])
	require.Empty(t, c.Files(), "a built-in is no file to watch")
	c, err = load(t, "", nil)
	require.NoError(t, err)
	require.Equal(t, "none", c.Engine().Judge)
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := load(t, "[log]\nlevel = \"loud\"\n[breaker]\nfailure_threshold = 0\n[retry]\nmax_attempts = 11\nx = 1\n"+
		"[gateway]\nvia = 1\n", nil)
	var keys []string
	for _, f := range err.(*Error).Faults {
		keys = append(keys, f.Key)
	}
	require.Equal(t, []string{"log.level", "breaker.failure_threshold", "retry.max_attempts", "retry.x", "gateway.via"},
		keys, "in the file's order")
}

// The query of the URL of health checks is masked, because it may be a secret.
func TestHealthChecks(t *testing.T) {
	c, err := load(t, "[health]\nurl = \"https://a.test/x?key=hunter2\"\ninterval = \"10s\"\njitter = 0\ntimeout = 3\n"+
		"expect = { status = 204, header = \"X: y\", body = \"z\" }\nexit = \"X-Exit\"\n", nil)
	require.NoError(t, err)
	require.Equal(t, health.Settings{URL: "https://a.test/x?key=hunter2", Interval: 10 * time.Second,
		Timeout: 3 * time.Second, Expect: health.Expectation{Status: 204, Header: "X: y", Body: "z"}, Exit: "X-Exit",
	}, c.Engine().Health)
	shown, err := json.Marshal(c)
	require.NoError(t, err)
	require.NotContains(t, string(shown), "hunter2")
	require.Contains(t, string(shown), `"url":"https://a.test/x?***"`)
	for text, key := range map[string]string{
		"url = \"ftp://x\"": "health.url", "interval = \"1ms\"": "health.interval", "jitter = 2": "health.jitter",
		"timeout = 0": "health.timeout", "exit = \"a b\"": "health.exit",
		"expect = { status = 99 }":    "health.expect.status",
		"expect = { header = \":\" }": "health.expect.header", "expect = { statuz = 1 }": "health.expect.statuz",
	} {
		_, err := load(t, "[health]\n"+text+"\n", nil)
		var bad *Error
		require.ErrorAs(t, err, &bad, text)
		require.Equal(t, key, bad.Faults[0].Key)
		require.Contains(t, bad.Error(), ":2: ", text)
	}
}

func TestSecretsAreNotQuoted(t *testing.T) {
	for _, text := range []string{
		"[[proxies]]\nurl = \"ftp://u:hunter2@x\"\n", "[[proxies]]\nurl = \"http://u:hunter2@x:99999\"\n",
		"[[gateway.users]]\nname = \"\"\npassword = \"hunter2\"\n",
		"[[api.keys]]\nname = \"a\"\nkey = \"hunter2\"\nrole = \"king\"\n",
		"[[api.keys]]\nname = \"a\"\nkey = 5\npassword = \"hunter2\"\n", "[api]\nkeys = [\"hunter2\"]\n",
		"[api]\nkeys = \"hunter2\"\n",
		"[health]\nurl = \"ftp://x/hunter2\"\n", "[health]\nurl = \"http://u:hunter2@x/\"\n",
		"[gateway]\nusers = \"u:hunter2\"\n", "proxies = \"http://u:hunter2@x:1\"\n",
		"[pool]\nfiles = [\"http://u:hunter2@x:1\"]\n", "[pool]\nurls = [{ url = \"ftp://u:hunter2@x:1\" }]\n",
		"[pool]\nurls = [\"http://u:hunter2@x:1\"]\n",
		"[pool]\nfiles = \"http://u:hunter2@x:1\"\n", "[plugins.x]\npath = \"p\"\nconfig = \"hunter2\"\n",
	} {
		_, err := load(t, text, nil)
		if assert.Error(t, err, text) {
			assert.NotContains(t, err.Error(), "hunter2", text)
		}
	}
}

// A variable with one underscore instead of two is probably meant for Whirlpool. It sets no key, and leads to
// a warning.
func TestAVariableWithOneUnderscore(t *testing.T) {
	c, err := load(t, "", func(s *Source) {
		s.Environ = []string{"WHIRLPOOL_GATEWAY_LISTEN=127.0.0.1:2", "WHIRLPOOL_RETRY_MAX_ATTEMPTS=4",
			"WHIRLPOOL_API_KEY=x", "WHIRLPOOL_HOME=/"}
	})
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1:8888", c.Gateway.Listen)
	assert.ElementsMatch(t, []string{
		"the environment variable WHIRLPOOL_GATEWAY_LISTEN sets nothing; did you mean WHIRLPOOL_GATEWAY__LISTEN?",
		"the environment variable WHIRLPOOL_RETRY_MAX_ATTEMPTS sets nothing; did you mean " +
			"WHIRLPOOL_RETRY__MAX_ATTEMPTS?",
	}, c.Warnings)
}

func TestEnvironmentThenFlags(t *testing.T) {
	text := "[gateway]\nlisten = \"127.0.0.1:1\"\n[retry]\nmax_attempts = 2\n[timeouts]\nattempt = \"5s\"\n"
	c, err := load(t, text, func(s *Source) {
		s.Environ = []string{"WHIRLPOOL_GATEWAY__LISTEN=127.0.0.1:2", "WHIRLPOOL_RETRY__MAX_ATTEMPTS=4", "HOME=/root"}
		s.Overrides = map[string]any{"gateway.listen": "127.0.0.1:3"}
	})
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1:3", c.Gateway.Listen)
	assert.Equal(t, 4, c.Policy.MaxAttempts)
	assert.Equal(t, 5*time.Second, time.Duration(c.Timeouts.Attempt))
	_, err = load(t, text, func(s *Source) { s.Environ = []string{"WHIRLPOOL_RETRY__MAX_ATTEMPTS=many"} })
	require.Error(t, err)
	assert.Contains(t, err.Error(), "WHIRLPOOL_RETRY__MAX_ATTEMPTS")
	for name, src := range map[string]Source{
		"environment variable WHIRLPOOL_NONSENSE__X: nonsense": {Environ: []string{"WHIRLPOOL_NONSENSE__X=1"}},
		"command line: log.level":                              {Overrides: map[string]any{"log.level": "loud"}},
		"command line: --proxies":                              {Proxies: []string{"/absent.txt"}},
		"its beginning is not a scheme; did you mean socks5?":  {Proxies: []string{"sock5:absent.txt"}},
	} {
		_, err := Load(src)
		require.Error(t, err)
		assert.Contains(t, err.Error(), name)
	}
}

func TestAByteOrderMark(t *testing.T) {
	c, err := load(t, "\ufeff[retry]\r\nmax_attempts = 4\r\n", nil)
	require.NoError(t, err)
	assert.Equal(t, 4, c.Policy.MaxAttempts)
}

// If the id in a line of a list is already in use, the line is left out. This does not prevent the start.
func TestIdsOfLists(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.txt": "http://a:1#id=x\nhttp://b:1#id=metrics\nhttp://c:1#id=y\nhttp://d:1\n",
		"b.txt": "http://e:1#id=y\nhttp://f:1\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	file := filepath.Join(dir, "koanf.toml")
	require.NoError(t, os.WriteFile(file, []byte("[pool]\nfiles = [\"a.txt\", \"b.txt\"]\n[[proxies]]\nid = \"x\"\n"+
		"url = \"http://z:1\"\n"), 0o600))
	c, err := Load(Source{File: file})
	require.NoError(t, err)
	assert.Equal(t, 4, c.ProxyCount())
	require.Len(t, c.Warnings, 3)
	assert.Contains(t, c.Warnings[0], "a.txt:1: the id \"x\"")
	assert.Contains(t, c.Warnings[1], "a.txt:2: ")
	assert.Contains(t, c.Warnings[2], "b.txt:1: the id \"y\"")
}

// Fetched lists add proxies as files do. A list that has not been fetched adds none.
func TestFetchedLists(t *testing.T) {
	file := filepath.Join(t.TempDir(), "koanf.toml")
	require.NoError(t, os.WriteFile(file, []byte("[pool]\nurls = [{ url = \"http://u:hunter2@l.test/a?key=hunter2\", "+
		"scheme = \"socks5\" }, { url = \"http://l.test/b\" }]\n"), 0o600))
	c, err := Load(Source{File: file})
	require.NoError(t, err)
	require.Zero(t, c.ProxyCount())
	require.Len(t, c.Lists(), 2)
	require.Equal(t, 10*time.Minute, c.Lists()[0].Refresh)
	shown, err := json.Marshal(c)
	require.NoError(t, err)
	require.Contains(t, string(shown), `"http://***@l.test/a?***"`)
	c, err = Load(Source{File: file, Fetched: map[string][]byte{
		"http://u:hunter2@l.test/a?key=hunter2": []byte("a:1\nnonsense\n"), "http://l.test/b": []byte("b:1\n"),
		"http://l.test/gone": []byte("c:1\n"),
	}})
	require.NoError(t, err)
	require.Equal(t, 2, c.ProxyCount(), "%v", c.Warnings)
	require.Equal(t, "socks5", c.specs[0].Address.Scheme)
	require.Len(t, c.Warnings, 1)
	require.Contains(t, c.Warnings[0], "http://***@l.test/a?***:2: ")
	shown, err = json.Marshal(c)
	require.NoError(t, err)
	require.NotContains(t, string(shown)+fmt.Sprint(c.Warnings), "hunter2")
}

// A large file that is not a proxy list leads to a thousand warnings, and not to a million.
func TestAListOfNonsense(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list.txt")
	require.NoError(t, os.WriteFile(list, []byte(strings.Repeat("nonsense\n", 2500)+"h:1\n"), 0o600))
	c, err := load(t, "", func(src *Source) { src.Proxies = []string{list} })
	require.NoError(t, err)
	require.Equal(t, 1, c.ProxyCount())
	require.Len(t, c.Warnings, maxWarnings+1)
	require.Contains(t, c.Warnings[maxWarnings], ": 1500 more lines")
}

// A file without a valid line is not an empty list, but no proxy list at all.
func TestAFileThatIsNoList(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list.txt")
	for text, ok := range map[string]bool{"\n<html>\n502 Bad Gateway\n</html>\n": false, "": true, "# none yet\n": true,
		"nonsense\nh:1\n": true} {
		require.NoError(t, os.WriteFile(list, []byte(text), 0o600))
		_, err := load(t, "[pool]\nfiles = [\""+list+"\"]\n", nil)
		if ok {
			require.NoError(t, err, text)
		} else {
			require.ErrorContains(t, err, "pool.files[0]: none of its lines is a valid proxy; line 2: ")
		}
	}
}

// If a list is named twice, for example by the file and by a flag, it is still a proxy list, although all its
// ids are already in use.
func TestAListThatIsNamedTwice(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list.txt")
	require.NoError(t, os.WriteFile(list, []byte("http://h:1#id=a\n"), 0o600))
	c, err := load(t, "[pool]\nfiles = [\""+list+"\"]\n", func(src *Source) { src.Proxies = []string{list} })
	require.NoError(t, err)
	require.Equal(t, 1, c.ProxyCount())
	require.Equal(t, []string{list + `:1: the id "a" is already used by another proxy`}, c.Warnings)
}

// A proxy's URL in place of the path of a list is not quoted, because it may contain a password.
func TestAProxyInThePlaceOfAList(t *testing.T) {
	for _, path := range []string{"http://u:hunter2@h:1", "u:hunter2@h:x", "h:1:u:hunter2"} {
		_, err := load(t, "[pool]\nfiles = [\""+path+"\"]\n", nil)
		require.ErrorContains(t, err, "[[proxies]]")
		assert.NotContains(t, err.Error(), "hunter2")
		_, err = load(t, "", func(src *Source) { src.Proxies = []string{path} })
		require.ErrorContains(t, err, "--proxy")
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

// A credential on the wrong side of a "=", or at an unknown key, is not quoted.
func TestAKeyThatIsASecret(t *testing.T) {
	for text, want := range map[string]string{
		"[gateway]\n\"ann:hunter2\" = 1\n":            ":2: gateway.***: unknown field; there are drain_delay",
		"\n\"the hunter2\" = 1\n":                     ":2: ***: unknown field; there are api",
		"[retry]\n\"the hunter2\" = 1\n":              ":2: retry.***: unknown field; there are",
		"[retry]\npassword = \"hunter2\"\n":           ":2: retry.password: unknown field; there are",
		"[plugins.\"ann:hunter2\"]\nx = 1\n":          ":1: plugins.***: is missing",
		"[gateway]\n\"@hunter2\"=1\n\"@hunter2\"=2\n": ":3: ***: TOML: key *** is already defined",
	} {
		_, err := load(t, text, nil)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

func TestAListFromStandardInput(t *testing.T) {
	c, err := Load(Source{Proxies: []string{Stdin}, Stdin: []byte("a:1\nnonsense\nb:2\n")})
	require.NoError(t, err)
	require.Equal(t, 2, c.ProxyCount())
	require.Empty(t, c.Files(), "nothing of it is watched")
	require.Len(t, c.Warnings, 1)
}

func TestAnOpenGatewayIsReported(t *testing.T) {
	for listen, warnings := range map[string]int{"127.0.0.1:1": 0, "[::1]:1": 0, "localhost:1": 0, ":1": 1,
		"0.0.0.0:1": 1, "10.0.0.1:1": 1} {
		c, err := load(t, "[gateway]\nlisten = \""+listen+"\"\n", nil)
		require.NoError(t, err)
		require.Len(t, c.Warnings, warnings, listen)
		c, err = load(t, "[gateway]\nlisten = \""+listen+"\"\nusers = [{name = \"a\", password = \"b\"}]\n", nil)
		require.NoError(t, err)
		require.NotContains(t, strings.Join(c.Warnings, "\n"), "everybody", listen)
	}
}

func TestNullsInTOML(t *testing.T) {
	c, err := load(t, "[retry]\ntimeout = \"null\"\nfailover_delay = 0\n", nil)
	require.NoError(t, err)
	assert.Nil(t, c.Policy.Timeout)
	require.NotNil(t, c.Policy.FailoverDelay)
}

func TestHedge(t *testing.T) {
	for text, want := range map[string]retry.Hedge{
		`"off"`: {}, `"p95"`: {P95: true}, `0.5`: {After: 0.5}, `2`: {After: 2},
	} {
		c, err := load(t, "[retry]\nhedge = "+text+"\nhedge_budget = 0.1\n", nil)
		require.NoError(t, err, text)
		assert.Equal(t, want, c.Engine().Retry.Hedge, text)
		assert.Equal(t, 0.1, c.Engine().Retry.HedgeBudget)
	}
	c, err := load(t, "", func(s *Source) { s.Environ = []string{"WHIRLPOOL_RETRY__HEDGE=p95"} })
	require.NoError(t, err)
	assert.True(t, c.Policy.Hedge.P95)
	for _, text := range []string{`hedge = "p99"`, `hedge = 0`, `hedge = 61`, `hedge = true`, `hedge_budget = 2`} {
		_, err := load(t, "[retry]\n"+text+"\n", nil)
		require.ErrorContains(t, err, "retry.hedge", text)
	}
}

// FuzzLoad: no input leads to a panic, and an engine can be built from each accepted configuration.
func FuzzLoad(f *testing.F) {
	shipped, err := os.ReadFile("../../../koanf.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(shipped))
	f.Add("[[proxies]]\nurl = \"http://a:1\"\nweight = 2\n[plugins.x]\npath = \"p.wasm\"\n")
	f.Add("[retry]\nmax_attempts = 1e3\n[gateway]\nusers = [1, {name = \"x\"}]\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "files") || strings.Contains(text, "path") {
			return // because it would read files that the fuzzer names
		}
		path := filepath.Join(dir, "koanf.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Source{File: path})
		if err != nil {
			_ = err.Error()
			return
		}
		c.Engine()
		c.Files()
	})
}

// many returns a file with n proxies.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "[[proxies]]\nid = \"p%d\"\nurl = \"http://u%d:p@10.0.0.1:80\"\nregion = \"r%d\"\n"+
			"metadata = { vendor = \"x\" }\n", i, i, i%10)
	}
	return b.String()
}

func BenchmarkLoad(b *testing.B) {
	text := many(10_000)
	b.ResetTimer()
	for b.Loop() {
		if _, err := load(b, text, nil); err != nil {
			b.Fatal(err)
		}
	}
}
