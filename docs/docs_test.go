// Package docs tests the documents of this folder.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

func files(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, p := range patterns {
		some, err := filepath.Glob(p)
		require.NoError(t, err)
		require.NotEmpty(t, some, p)
		all = append(all, some...)
	}
	return all
}

// docs/scenarios.md describes each scenario that a test is named after.
func TestEveryScenarioIsDescribed(t *testing.T) {
	page := read(t, "scenarios.md")
	for _, file := range files(t, "../integration/*_test.go") {
		for _, test := range regexp.MustCompile(`(?m)^func Test((?:S\d\d)+)(?:To(\d\d))?`).FindAllStringSubmatch(read(t,
			file), -1) {
			for _, number := range regexp.MustCompile(`\d\d`).FindAllString(test[1]+test[2], -1) {
				require.Contains(t, page, "\n| S"+number+" | ", "%s in %s", test[0], file)
			}
		}
	}
}

// The title of each decision is a question. Each decision has a date and is in the index.
func TestEveryDecisionIsAQuestion(t *testing.T) {
	index := read(t, "decisions/README.md")
	for _, file := range files(t, "decisions/*.md") {
		name := filepath.Base(file)
		if name == "README.md" {
			continue
		}
		head := regexp.MustCompile(`\A# (.+\?)\n\nDecided (\d{4}-\d\d-\d\d)\.\n\n\S`).FindStringSubmatch(read(t, file))
		require.NotNil(t, head, "%s begins with a question and a date", file)
		require.Contains(t, index, "\n- ["+head[1]+"]("+name+") ("+head[2]+")\n")
	}
	for _, link := range regexp.MustCompile(`\]\((\S+\.md)\)`).FindAllStringSubmatch(index, -1) {
		require.FileExists(t, "decisions/"+link[1])
	}
}

// The files that documents link to exist.
func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	for _, file := range files(t, "*.md", "*/*.md", "../*.md", "../sdk/*.md", "../wasm-examples/*.md") {
		for _, to := range link.FindAllStringSubmatch(read(t, file), -1) {
			_, err := os.Stat(filepath.Join(filepath.Dir(file), to[1]))
			require.NoError(t, err, file)
		}
	}
}

// The Go files, and the functions in them, that documents name as path.go:function exist.
func TestNamedFunctionsExist(t *testing.T) {
	named := regexp.MustCompile("`((?:api|cmd|core|integration|plugins|sdk)/[\\w/-]+\\.go)(?::(\\w+))?`")
	for _, page := range files(t, "*.md", "../CONTRIBUTING.md") {
		for _, name := range named.FindAllStringSubmatch(read(t, page), -1) {
			code := read(t, "../"+name[1])
			if name[2] != "" {
				require.Regexp(t, `(?m)^func (\(.*\) )?`+name[2]+`\b`, code, "%s names %s", page, name[0])
			}
		}
	}
}

// Lines have at most 120 columns, except in tables, commands, and the generated file.
func TestLinesAreShort(t *testing.T) {
	for _, file := range files(t, "*.md", "*/*.md", "../*.md") {
		if file == "bench-peers.md" {
			continue
		}
		for i, line := range strings.Split(read(t, file), "\n") {
			if !strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "    ") {
				require.LessOrEqual(t, len([]rune(line)), 120, "%s:%d", file, i+1)
			}
		}
	}
}
