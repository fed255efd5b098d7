package scaffold_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/scaffold"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// This test checks which files are written. A test in integration (TestALanguage...) builds them, runs their
// tests, and uses the plugin in a gateway.
func TestWrite(t *testing.T) {
	source := map[string]string{"go": "main.go", "rust": "src/lib.rs", "as": "plugin.ts", "c": "plugin.c",
		"cpp": "plugin.cc", "zig": "plugin.zig"}
	inSDK := map[string]string{"go": "sdk/scorer/scorer.go", "rust": "src/lib.rs", "as": "index.ts", "c": "whirlpool.h",
		"cpp": "whirlpool.h", "zig": "whirlpool.zig"}
	for _, lang := range scaffold.Languages() {
		for _, kind := range wasmhost.Kinds() {
			dir := filepath.Join(t.TempDir(), "deeper", "mine")
			files, err := scaffold.Write(dir, scaffold.Plugin{Name: "my-plugin_2", Lang: lang, Kind: kind})
			require.NoError(t, err)
			require.Subset(t, files, []string{"README.md", "Makefile", ".gitignore", source[lang]})
			require.FileExists(t, filepath.Join(dir, "whirlpool", inSDK[lang]))
			require.FileExists(t, filepath.Join(dir, "whirlpool", "ABI.md"))
			for _, f := range files {
				text, err := os.ReadFile(filepath.Join(dir, f))
				require.NoError(t, err)
				require.NotContains(t, string(text), "[[.", f)
				require.NotContains(t, string(text), "<no value>", f)
				require.NotContains(t, f, "tmpl")
			}
			readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
			require.NoError(t, err)
			require.Contains(t, string(readme), "module=@my-plugin_2.wasm")
			require.Contains(t, string(readme), "[plugins.my-plugin_2.config]\n")
			require.Contains(t, string(readme), `{"for":"`+map[wasmhost.Kind]string{wasmhost.Scorer: "first",
				wasmhost.Backoff: "backoff", wasmhost.Judge: "judge"}[kind]+`"}`)
			for _, path := range regexp.MustCompile(`whirlpool/[A-Za-z/._]*\w`).FindAllString(string(readme), -1) {
				require.True(t, exists(filepath.Join(dir, path)), "%s: the README of %s names %s", kind, lang, path)
			}
			require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && strings.HasSuffix(path, ".sh") {
					info, err := d.Info()
					require.NoError(t, err)
					require.NotZero(t, info.Mode()&0o100, "%s can be run", path)
				}
				return err
			}))
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestNothingIsOverwritten(t *testing.T) {
	dir := t.TempDir() // an existing empty folder
	p := scaffold.Plugin{Name: "mine", Lang: "c", Kind: wasmhost.Scorer}
	_, err := scaffold.Write(dir, p)
	require.NoError(t, err)
	mine := filepath.Join(dir, "plugin.c")
	require.NoError(t, os.WriteFile(mine, []byte("my work"), 0o644))
	_, err = scaffold.Write(dir, p)
	require.ErrorIs(t, err, scaffold.ErrArgument)
	require.ErrorContains(t, err, "is not empty; choose another folder")
	text, err := os.ReadFile(mine)
	require.NoError(t, err)
	require.Equal(t, "my work", string(text))

	_, err = scaffold.Write(mine, p) // a file in place of the folder
	require.Error(t, err)
}

func TestArguments(t *testing.T) {
	good := scaffold.Plugin{Name: "mine", Lang: "go", Kind: wasmhost.Scorer}
	require.NoError(t, good.Check())
	for says, p := range map[string]scaffold.Plugin{
		`named "": a plugin's name is`:             {Lang: "go", Kind: "scorer"},
		`named "../up": a plugin's name is`:        {Name: "../up", Lang: "go", Kind: "scorer"},
		`named "Mine": a plugin's name is`:         {Name: "Mine", Lang: "go", Kind: "scorer"},
		`named "performance": "performance" is`:    {Name: "performance", Lang: "go", Kind: "scorer"},
		`the language is "": give one of go, rust`: {Name: "mine", Kind: "scorer"},
		`the language is "ada": give one of go`:    {Name: "mine", Lang: "ada", Kind: "scorer"},
		`the kind is "": give scorer, backoff or`:  {Name: "mine", Lang: "go"},
	} {
		dir := filepath.Join(t.TempDir(), "new")
		_, err := scaffold.Write(dir, p)
		require.ErrorIs(t, err, scaffold.ErrArgument)
		require.ErrorContains(t, err, says)
		require.NoDirExists(t, dir)
	}
}
