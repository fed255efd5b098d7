package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// The command route prints the route under the rules of a file.
func TestRouteOfAFile(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := runCA(t, "create") // the CA is needed for intercept
	require.NoError(t, err)
	const file = "koanf.toml"
	require.NoError(t, os.WriteFile(file, []byte(`
[[gateway.users]]
name = "ann"
password = "secret"
[intercept]
ca_file = "`+defaultCAFile+`"
key_file = "`+defaultKeyFile+`"
[[proxies]]
url = "http://a.test:1"
region = "us"
tags = ["res"]
[[rules]]
name = "ads"
when = { host = ["ads.test", "*.ads.test"] }
then = { deny = true }
[[rules]]
when = { path = "/api/*", user = "ann" }
then = { tag = "res", region = "us", prefer = true, scorer = "weighted" }
[[rules]]
when = { port = 443 }
then = { intercept = true, policy = { timeout = 9, attempt_timeout = 1.5 } }
[[rules]]
when = { host = "direct.test" }
then = { direct = true, interim = true }
[[rules]]
when = { host = "*", status = 403 }
then = { rest = "10m" }
`), 0o600))
	route := func(args ...string) string {
		out, errs, code := run(append([]string{"route", "--config", file}, args...)...)
		require.Zero(t, code, errs)
		return out
	}
	require.Equal(t, `CONNECT shop.test:443

way        all proxies
policy     max_attempts 3, exponential from 1 s, timeout 9 s, attempt_timeout 1.5 s (rules[2])
scorer     exploring
intercept  yes (rules[2]); --method GET shows the way of a request in the tunnel

RULE      APPLIED            WHY
ads       no                 host ads.test, *.ads.test: it is shop.test
rules[1]  no                 path /api/*: the path is encrypted in the tunnel; user ann: the request has none
rules[2]  policy, intercept  port 443
rules[3]  no                 host direct.test: it is shop.test
rules[4]  perhaps            depends on the response: status
`, route("https://shop.test/api/x"))
	require.Equal(t, `POST [::1]:8080/api/x by ann

way     preferably proxies with the tag res and of the region us (rules[1])
policy  max_attempts 3, exponential from 1 s
scorer  weighted (rules[1])

RULE      APPLIED      WHY
ads       no           host ads.test, *.ads.test: it is ::1
rules[1]  way, scorer  path /api/*; user ann
rules[2]  no           port 443: it is 8080
rules[3]  no           host direct.test: it is ::1
rules[4]  perhaps      depends on the response: status
`, route("--method", "post", "--user", "ann", "http://[::1]:8080/api/x?q"))
	require.Equal(t, `GET shop.test:443/

way     all proxies
policy  max_attempts 3, exponential from 1 s, timeout 9 s, attempt_timeout 1.5 s (rules[2])
scorer  exploring

RULE      APPLIED  WHY
ads       no       host ads.test, *.ads.test: it is shop.test
rules[1]  no       path /api/*: it is /; user ann: the request has none
rules[2]  policy   port 443
rules[3]  no       host direct.test: it is shop.test
rules[4]  perhaps  depends on the response: status
`, route("--method", "get", "https://shop.test/"))
	require.Contains(t, route("x.ads.test:80"), "\nway  denied: 403 denied_by_rule (ads)\n\n")
	require.Regexp(t, `way +direct, without a proxy \(rules\[3\]\)\npolicy .*\ninterim +yes \(rules\[3\]\)\n\n`,
		route("http://direct.test"))

	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Contains(t, route("http://a.test/"), "\nThere are no rules.\n")
	_, errs, code := run("route", "--config", file, "ftp://a.test/")
	require.Equal(t, 2, code)
	require.Contains(t, errs, "url must be")
}
