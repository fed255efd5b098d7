package api

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The modules of the dashboard import each other without a cycle.
func TestModulesOfTheDashboard(t *testing.T) {
	files, err := fs.Glob(dashboard, "dashboard/*.js")
	require.NoError(t, err)
	statement := regexp.MustCompile(`(?m)^import .*"\./(\w+\.js)";$`)
	imports := map[string][]string{}
	for _, file := range files {
		content, err := dashboard.ReadFile(file)
		require.NoError(t, err)
		for _, m := range statement.FindAllStringSubmatch(string(content), -1) {
			name := strings.TrimPrefix(file, "dashboard/")
			imports[name] = append(imports[name], m[1])
		}
	}
	require.NotEmpty(t, imports["main.js"])
	checked := map[string]bool{}
	var follow func(path []string)
	follow = func(path []string) {
		name := path[len(path)-1]
		require.NotContains(t, path[:len(path)-1], name, "a circle of imports: %s", strings.Join(path, " > "))
		if checked[name] {
			return
		}
		for _, next := range imports[name] {
			require.Contains(t, pages, "/"+next, "%s imports it", name)
			follow(append(slices.Clone(path), next))
		}
		checked[name] = true
	}
	for name := range imports {
		follow([]string{name})
	}
}

// A chart of a day formats hundreds of times, and the page starts with hundreds of numbers: the slow formats of the
// browser would make tasks of 50 ms and more.
func TestFormatsOfTheDashboard(t *testing.T) {
	files, err := fs.Glob(dashboard, "dashboard/*.js")
	require.NoError(t, err)
	for _, file := range files {
		content, err := dashboard.ReadFile(file)
		require.NoError(t, err)
		if file != "dashboard/uplot.js" {
			require.NotRegexp(t, `\.toLocale\w*String\(|new Intl\.NumberFormat`, string(content), file)
		}
	}
}
