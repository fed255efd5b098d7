package sdk_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk"
)

func TestAllOfTheGoSDKIsEmbedded(t *testing.T) {
	embedded := map[string]bool{}
	require.NoError(t, fs.WalkDir(sdk.Go, ".", func(path string, d fs.DirEntry, err error) error {
		embedded[path] = true
		return err
	}))
	require.NoError(t, fs.WalkDir(os.DirFS("."), ".", func(path string, d fs.DirEntry, err error) error {
		switch path {
		case "testdata", "rust", "c", "assemblyscript", "client", "whirlpool": // the last two are not for plugins
			return fs.SkipDir
		}
		if strings.HasSuffix(path, ".go") && strings.Contains(path, "/") {
			require.False(t, strings.HasSuffix(path, "_test.go"),
				"%s: tests of the SDK stand in sdk itself, so that nobody is given them", path)
			require.True(t, embedded[path], "%s is missing from sdk.Go", path)
		}
		return err
	}))
}

// A plugin in its own folder builds for WebAssembly and passes its own test, with only the embedded SDK and without a
// network.
func TestTheGoSDKStandsAlone(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	require.NoError(t, os.CopyFS(filepath.Join(dir, "whirlpool", "sdk"), sdk.Go))
	write("whirlpool/go.mod", "module github.com/whirlpool-proxy/whirlpool\n\ngo 1.26\n")
	write("go.mod", `module mine

go 1.26

require github.com/whirlpool-proxy/whirlpool v0.0.0

replace github.com/whirlpool-proxy/whirlpool => ./whirlpool
`)
	source, err := os.ReadFile("testdata/performance/main.go")
	require.NoError(t, err)
	write("main.go", string(source))
	write("main_test.go", `package main

import (
	"testing"

	"github.com/whirlpool-proxy/whirlpool/sdk/scorer"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
)

func TestPerformance(t *testing.T) {
	if err := sdktest.CheckScorer(func() scorer.Scorer { return performance{} }); err != nil {
		t.Fatal(err)
	}
	if best := sdktest.Best(sdktest.Score(performance{}, sdktest.Request(), sdktest.Candidates(10))); best != 0 {
		t.Fatal("the best is", best)
	}
}
`)
	run := func(env []string, args ...string) {
		cmd := exec.Command("go", args...)
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=mod", "GOWORK=off"), env...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %v: %s", args, out)
	}
	run(nil, "vet", "./...", "github.com/whirlpool-proxy/whirlpool/...")
	run(nil, "test", "./...")
	run([]string{"GOOS=wasip1", "GOARCH=wasm"}, "build", "-buildmode=c-shared", "-o", "mine.wasm", ".")
}
