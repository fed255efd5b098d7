package gateway

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Only readControl and stallWriter set deadlines of client connections. The other calls in this package set deadlines
// of connections to targets, and of streams of net/http.
func TestDeadlinesHaveOneOwner(t *testing.T) {
	owners := map[string]string{"rc.conn": "deadline.go", "w.conn": "writer.go"}
	others := []string{"t.target", "src", "remote.Conn", "response", "control"}
	call := regexp.MustCompile(`([\w.]+)\.Set(?:Read|Write)?Deadline\(`)
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	found := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range call.FindAllStringSubmatch(string(source), -1) {
			conn := m[1]
			found[conn] = true
			if !slices.Contains(others, conn) {
				require.Equal(t, owners[conn], file, "%s sets a deadline of %s", file, conn)
			}
		}
	}
	for conn := range owners {
		require.True(t, found[conn], conn)
	}
}
