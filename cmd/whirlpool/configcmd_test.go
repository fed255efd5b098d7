package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
)

func TestConfigInit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k.toml")
	out, errs, code := run("config", "init", file)
	require.Zero(t, code, errs)
	require.Contains(t, out, "whirlpool serve --config "+file)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(whirlpool.Koanf), string(text))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	_, errs, code = run("config", "check", file)
	require.Zero(t, code, errs)

	_, errs, code = run("config", "init", file)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "exists and is not changed")
	_, _, code = run("config", "init", filepath.Join(file, "x"))
	require.Equal(t, exitUsage, code)
	out, _, code = run("config", "init", "-")
	require.Zero(t, code)
	require.Equal(t, string(whirlpool.Koanf), out)
}

func TestConfigInitAndFormatAsJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k.toml")
	result := func(code int, args ...string) (r fileResult) {
		t.Helper()
		out, errs, got := run(append([]string{"config"}, append(args, "--json")...)...)
		require.Equal(t, code, got, errs)
		require.NoError(t, json.Unmarshal([]byte(out), &r), out)
		return r
	}
	yes, no := true, false
	require.Equal(t, fileResult{File: file, Written: true}, result(0, "init", file))
	require.Equal(t, fileResult{File: "-", Content: string(whirlpool.Koanf)}, result(0, "init", "-"))
	require.Equal(t, fileResult{File: file, Uniform: &yes, Content: string(whirlpool.Koanf)}, result(0, "fmt", file))
	require.NoError(t, os.WriteFile(file, []byte("a=1\n"), 0o600))
	require.Equal(t, fileResult{File: file, Uniform: &no, Content: "a = 1\n"}, result(0, "fmt", file))
	require.Equal(t, fileResult{File: file, Uniform: &no}, result(exitFailed, "fmt", file, "--check"))
	require.Equal(t, fileResult{File: file, Uniform: &no, Written: true}, result(0, "fmt", file, "-w"))
	require.Equal(t, fileResult{File: file, Uniform: &yes}, result(0, "fmt", file, "-w"))
	require.Equal(t, fileResult{File: file, Uniform: &yes}, result(0, "fmt", file, "--check"))

	out, errs, code := run("config", "init", file, "--json")
	require.Equal(t, exitFailed, code)
	require.Empty(t, out)
	require.Contains(t, errs, "exists and is not changed")
}

// config check reports the faults of the file and the faults that the gateway's parts find, such as unknown names, in
// one run.
func TestConfigCheckReportsAllFaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k.toml")
	require.NoError(t, os.WriteFile(file, []byte(`
[log]
level = "loud"
[selection]
first = "exploreing"
retry = "performence"
[retry]
max_attempts = 11
backoff_strategy = "liner"
[timeouts]
connect = "20s"
[[rules]]
when = { status = 99 }
then = { retry = true }
`), 0o600))
	_, errs, code := run("config", "check", file)
	require.Equal(t, exitFailed, code)
	for _, part := range []string{"log.level", "did you mean exploring?", "did you mean performance?", "max_attempts",
		"did you mean linear?", "rules[0].when.status", "warning: ", "longer than timeouts.attempt"} {
		require.Contains(t, errs, part)
	}
	out, errs, code := run("config", "check", file, "--json")
	require.Equal(t, exitFailed, code)
	var result checkResult
	require.NoError(t, json.Unmarshal([]byte(out), &result))
	require.False(t, result.Valid)
	require.Len(t, result.Faults, 6, "each fault is named once: %s", errs)
	require.Len(t, result.Warnings, 1)

	require.NoError(t, os.WriteFile(file, []byte("[intercept]\nca_file = \"none.pem\"\nkey_file = \"none.key\"\n"+
		"[[rules]]\nwhen = { host = \"*\" }\nthen = { intercept = true }\n"), 0o600))
	_, errs, _ = run("config", "check", file)
	require.Contains(t, errs, "intercept.ca_file: ")
	require.NotContains(t, errs, "rules[0]", "it is a consequence")

	require.NoError(t, os.WriteFile(file, []byte("[log]\nlevel = "), 0o600))
	_, errs, code = run("config", "check", file)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "k.toml:2: ")
}

func TestConfigFormat(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k.toml")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o640)) }
	write("a=1\n[x]\n")
	out, errs, code := run("config", "fmt", file)
	require.Zero(t, code, errs)
	require.Equal(t, "a = 1\n\n[x]\n", out)
	_, errs, code = run("config", "fmt", "--check", file)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "is in another form")

	link := filepath.Join(t.TempDir(), "link.toml")
	require.NoError(t, os.Symlink(file, link))
	for range 2 {
		out, errs, code = run("config", "fmt", "-w", link)
		require.Zero(t, code, errs)
		require.Empty(t, out)
	}
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "a = 1\n\n[x]\n", string(text))
	info, err := os.Lstat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode())
	_, _, code = run("config", "fmt", "--check", file)
	require.Zero(t, code)

	write("a = \n")
	for _, c := range []struct {
		args []string
		code int
		errs string
	}{
		{[]string{file}, exitFailed, "line 1: "}, {[]string{file + "x"}, exitUsage, "no such file"},
		{[]string{"-w", "-"}, exitUsage, "needs a file"}, {[]string{"-w", "--check", file}, exitUsage, "excludes"},
	} {
		_, errs, code = run(append([]string{"config", "fmt"}, c.args...)...)
		require.Equal(t, c.code, code)
		require.Contains(t, errs, c.errs)
	}
}

func TestConfigDiff(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k.toml")
	require.NoError(t, os.WriteFile(file, []byte("[log]\nlevel = \"debug\"\n"), 0o600))
	cfg, err := config.Load(config.Source{File: file})
	require.NoError(t, err)
	same, err := json.Marshal(cfg)
	require.NoError(t, err)
	cfg.Log.Level = "warn"
	other, err := json.Marshal(cfg)
	require.NoError(t, err)
	newFakeAPI(t, map[string][]string{"GET /config": {`200 {"config":` + string(same) + `}`,
		`200 {"config":` + string(other) + `}`}})
	out, errs, code := run("config", "diff", file)
	require.Zero(t, code, errs)
	require.Empty(t, out)
	out, errs, code = run("config", "diff", file)
	require.Equal(t, exitFailed, code)
	require.Equal(t, "- log.level = \"warn\"\n+ log.level = \"debug\"\n", out)
	require.Contains(t, errs, "and the configuration in force differ in 1 key\n")
	out, _, _ = run("config", "diff", file, "--json")
	require.Contains(t, out, `"key": "log.level"`)
	_, _, code = run("config", "diff", file+"x")
	require.Equal(t, exitUsage, code)
}

func TestDoctorCommand(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "k.toml")
	require.NoError(t, os.WriteFile(file,
		[]byte("[gateway]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n"),
		0o600))
	out, errs, code := run("doctor", "--config", file)
	require.Zero(t, code, out+errs)
	require.Regexp(t, `OK +configuration +\S+k\.toml is valid\n`, out)
	require.Regexp(t, `OK +gateway\.listen +127\.0\.0\.1:0 is free\n`, out)

	require.NoError(t, os.WriteFile(file, []byte("[gateway]\nlisten = \"127.0.0.1:0\"\nlisen = 1\n"), 0o600))
	out, errs, code = run("doctor", "--config", file, "--json")
	require.Equal(t, exitFailed, code)
	require.Contains(t, out, "has 1 fault\"")
	require.Contains(t, errs, "failed")
	_, _, code = run("doctor", "--config", file+"x")
	require.Equal(t, exitUsage, code)
}

func TestTopNeedsATerminal(t *testing.T) {
	_, errs, code := run("top")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "needs a terminal")
	_, errs, code = run("top", "--sort", "lateny")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "did you mean latency?")
	_, _, code = run("top", "--interval", "1ms")
	require.Equal(t, exitUsage, code)
}

func TestMisspeltCommands(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"sevre", "did you mean serve?"}, {"stauts", "did you mean status?"}, {"--vresion", "did you mean --version?"},
		{"prox", "did you mean proxies?"}, {"proxy list", "did you mean proxies?"}, {"heal", "did you mean health?"},
	} {
		_, errs, code := run(strings.Fields(c.args)...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, c.want)
	}
}

func TestConfigCheckReportsEachFaultOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k.toml")
	require.NoError(t, os.WriteFile(file, []byte(`
[gateway]
listen = "127.0.0.1:18080"
[api]
listen = "127.0.0.1:18080"
[[proxies]]
url = "http://10.0.0.1:80"
weight = -1
[[proxies]]
url = "http://10.0.0.2:80"
insecure = true
[[proxies]]
url = "http://10.0.0.3:80"
own_error = { status = 9 }
`), 0o600))
	out, _, code := run("config", "check", "--json", file)
	require.Equal(t, exitFailed, code)
	var result checkResult
	require.NoError(t, json.Unmarshal([]byte(out), &result))
	var keys []string
	for _, f := range result.Faults {
		keys = append(keys, f.Key)
	}
	require.ElementsMatch(t, []string{"api.listen", "proxies[0].weight", "proxies[1].url",
		"proxies[2].own_error[0].status"}, keys, out)
}

func TestConfigCheckShowsHowListsAreRead(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "p.txt"), []byte("1.2.3.1:80\n1.2.3.2:80\n1.2.3.1:80\n"+
		"nonsense\n1.2.3.3:80:ann:secret\n1.2.3.4:80\n"), 0o600))
	file := filepath.Join(dir, "k.toml")
	require.NoError(t, os.WriteFile(file, []byte("[pool]\nfiles = [\"p.txt\"]\n"), 0o600))
	out, errs, code := run("config", "check", file)
	require.Zero(t, code, errs)
	for _, line := range []string{"p.txt: 4 proxies\n", "  read 3: host:port\n", "  read 1: host:port:user:pass\n",
		"  such as http://1.2.3.1:80\n", "  left out 1: the same proxy as on another line\n",
		"  left out 1: the line has none of the forms"} {
		require.Contains(t, out, line)
	}
	require.NotContains(t, out+errs, "secret")
	out, _, code = run("config", "check", "--json", file)
	require.Zero(t, code)
	var result checkResult
	require.NoError(t, json.Unmarshal([]byte(out), &result))
	require.Len(t, result.Lists, 1)
	require.Equal(t, 4, result.Lists[0].Proxies)
	require.Equal(t, []string{"http://1.2.3.1:80", "http://1.2.3.2:80"}, result.Lists[0].Samples[:2])
	require.Len(t, result.Lists[0].Samples, 3)
	require.NotContains(t, out, "ann")
}
