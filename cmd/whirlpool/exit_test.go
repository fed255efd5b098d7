package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

func TestMisspeltCommandsAreNotRun(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"srve"}, `"srve" is not one of its commands; did you mean serve?`},
		{[]string{"hlep"}, "did you mean help?"},
		{[]string{"help", "srve"}, `help: "srve" is not a command of whirlpool; did you mean serve?`},
		{[]string{"help", "proxies", "lst"}, `"lst" is not a command of whirlpool proxies; did you mean list?`},
		{[]string{"completion", "bsh"}, `completion: "bsh" is not one of its commands; did you mean bash?`},
		{[]string{"completion", "tcsh"}, `(bash, fish, powershell, zsh); see whirlpool completion --help`},
		{[]string{"completion", "bash", "x"}, "one argument too many"},
		{[]string{"config", "shwo"}, `"shwo" is not one of its commands (check, diff, fmt, init)`},
	} {
		out, errs, code := run(c.args...)
		require.Equal(t, exitUsage, code, c.args)
		require.Empty(t, out, c.args)
		require.Contains(t, errs, c.says, c.args)
	}
}

func TestHelpOfCommands(t *testing.T) {
	for _, args := range [][]string{nil, {"serve"}, {"proxies", "add"}, {"completion", "bash"}} {
		help, errs, code := run(append([]string{"help"}, args...)...)
		require.Zero(t, code, errs)
		flag, _, _ := run(append(args, "--help")...)
		require.Equal(t, flag, help)
	}
}

func TestCommandsHaveExamples(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Name() != "completion" { // its help is cobra's
				walk(sub)
			}
		}
		if c.HasSubCommands() || c.Hidden {
			return
		}
		require.NotEmpty(t, c.Example, c.CommandPath())
		for line := range strings.Lines(c.Example) {
			require.Regexp(t, "^  "+c.CommandPath()+`( |\n|$)`, line)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			placeholder, _ := pflag.UnquoteUsage(f)
			if f.Hidden {
				return
			}
			require.Equal(t, strings.ToUpper(placeholder), placeholder, "%s: --%s", c.CommandPath(), f.Name)
		})
	}
	walk(rootCommand())
}

func TestFlagsSayWhatTheyTake(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"proxies", "list", "--limit", "abc"}, `--limit "abc": must be a whole number, such as 100; see`},
		{[]string{"proxies", "list", "--limit", "99999999999999999999"}, "must be a whole number"},
		{[]string{"proxies", "list", "--limit"}, "--limit needs a value: --limit N; see whirlpool proxies list --help"},
		{[]string{"plugin", "simulate", "x", "--seed", "-1"}, "must be a whole number of at least 0"},
		{[]string{"events", "--sample", "x"}, `--sample "x": must be a number, such as 0.5`},
		{[]string{"events", "--type", `a"b`}, "must be words, separated by commas"},
		{[]string{"top", "--interval", "5"}, `--interval "5": needs a unit: 5s, 5m or 5h`},
		{[]string{"top", "--interval", "soon"}, "must be a time with a unit, such as 30s, 5m or 1h"},
		{[]string{"status", "--json=maybe"}, `--json "maybe": must be true or false`},
		{[]string{"serve", "-config", "x"}, "unknown flag: -config; did you mean --config?"},
		{[]string{"serve", "-x"}, "unknown flag: -x; see"},
	} {
		_, errs, code := run(c.args...)
		require.Equal(t, exitUsage, code, c.args)
		require.Contains(t, errs, c.says, c.args)
		require.NotContains(t, errs, "strconv")
	}
}

func TestMisspeltValuesGetASuggestion(t *testing.T) {
	module := filepath.Join("..", "..", "plugins", "builtin", "performance.wasm")
	for _, c := range []struct {
		args    []string
		similar string
	}{
		{[]string{"check", "list.txt", "--scheme", "sock5"}, "socks5"},
		{[]string{"proxies", "add", "1.2.3.4:80", "--scheme", "sokcs5"}, "socks5"},
		{[]string{"proxies", "add", "htp://1.2.3.4:80"}, "http"},
		{[]string{"proxies", "list", "--state", "opne"}, "open"},
		{[]string{"proxies", "list", "--sort", "latecy"}, "latency"},
		{[]string{"proxies", "groups", "--by", "regoin"}, "region"},
		{[]string{"request", "http://a.example/", "--priority", "hihg"}, "high"},
		{[]string{"events", "--type", "brekaer"}, "breaker"},
		{[]string{"top", "--sort", "sucess"}, "success"},
		{[]string{"plugin", "new", "mine", "--lang", "rsut", "--kind", "scorer"}, "rust"},
		{[]string{"plugin", "new", "mine", "--lang", "go", "--kind", "scorr"}, "scorer"},
		{[]string{"plugin", "push", module, "--activate", "frist"}, "first"},
		{[]string{"plugin", "simulate", module, "--generate", "stedy"}, "steady"},
		{[]string{"plugin", "simulate", module, "--generate", "swap,proxie=3"}, "proxies"},
	} {
		out, errs, code := run(c.args...)
		require.Equal(t, exitUsage, code, c.args)
		require.Empty(t, out, c.args)
		require.Contains(t, errs, "; did you mean "+c.similar+"?", c.args)
	}
}

// A request whose target is denied gets a 403, too. The error does not mention keys.
func TestADeniedTargetNeedsNoOtherKey(t *testing.T) {
	newFakeAPI(t, map[string][]string{"POST /request": {
		`403 {"error":"egress_denied","message":"the target is not allowed","details":{"attempts":[]}}`}})
	_, errs, code := run("request", "http://127.0.0.1/")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "the target is not allowed\n")
}

func TestMisspeltRegionsGetASuggestion(t *testing.T) {
	const groups = `200 {"groups":[{"name":"germany"},{"name":"france"},{"name":""}]}`
	responses := func() map[string][]string {
		return map[string][]string{"GET /proxies": {`200 {"proxies":[]}`}, "GET /proxy-groups": {groups},
			"GET /status":   {`200 {"proxies":{"total":3}}`},
			"POST /request": {`503 {"error":"no_proxy_in_region","message":"no","details":{"attempts":[]}}`}}
	}
	for _, args := range [][]string{
		{"proxies", "list", "--region", "germani"},
		{"request", "http://a.example/", "--region", "germani", "--region-strict"},
	} {
		newFakeAPI(t, responses())
		_, errs, code := run(args...)
		require.Equal(t, exitFailed, code)
		require.Contains(t, errs, `--region "germani": no proxy has this region; the regions are germany, france; `+
			"did you mean germany?")
	}
	misspelt := responses()
	misspelt["POST /request"] = []string{`200 {"outcome":"success","status":200,"attempts":[]}`}
	newFakeAPI(t, misspelt)
	_, errs, code := run("request", "http://a.example/", "--region", "germani")
	require.Zero(t, code, errs)
	require.Contains(t, errs, `note: --region "germani": no proxy has this region; the regions are germany, france; `+
		"did you mean germany? (without --region-strict, every proxy may be used)")
	for groups, want := range map[string]string{
		`200 {"groups":[{"name":""}]}`: `note: --region "germani": no proxy has a region (without --region-strict, ` +
			"every proxy may be used)\n",
		`500 {"error":"internal","message":"broken"}`: "",
	} {
		other := responses()
		other["POST /request"] = []string{`200 {"outcome":"success","status":200,"attempts":[]}`}
		other["GET /proxy-groups"] = []string{groups}
		newFakeAPI(t, other)
		_, errs, code := run("request", "http://a.example/", "--region", "germani")
		require.Zero(t, code, errs)
		require.Equal(t, want, errs)
	}
	newFakeAPI(t, responses())
	out, errs, code := run("proxies", "list", "--region", "France", "--state", "open")
	require.Zero(t, code, errs)
	require.Contains(t, out, "0 of 3 proxies")
}
