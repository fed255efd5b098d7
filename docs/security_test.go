package docs

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each test that SECURITY.md names beside a promise exists.
func TestPromisesHaveTests(t *testing.T) {
	out, err := exec.Command("git", "grep", "-hoE", `^func (Test|Fuzz)[A-Za-z0-9_]+`, "--", "../*_test.go").Output()
	if err != nil {
		t.Skip("needs git and the repository: ", err)
	}
	exists := map[string]bool{}
	for _, line := range strings.Split(string(out), "\n") {
		exists[strings.TrimPrefix(line, "func ")] = true
	}
	rows := 0
	for _, line := range strings.Split(read(t, "../SECURITY.md"), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| promise") {
			continue
		}
		rows++
		cells := strings.Split(line, " | ")
		names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[len(cells)-1], -1)
		require.NotEmpty(t, names, line)
		for _, name := range names {
			require.True(t, exists[name[1]], "%s does not exist: %s", name[1], line)
		}
	}
	require.Greater(t, rows, 15)
}
