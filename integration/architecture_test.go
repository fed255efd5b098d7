package integration

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each file, folder and function that docs/architecture.md names exists.
func TestTheNamesInArchitectureExist(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	require.NoError(t, err)
	places := regexp.MustCompile("`([a-z][a-z0-9_/.-]*)(:[A-Za-z]+)?`").FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(places), 40)
	for _, p := range places {
		_, err := os.Stat("../" + p[1])
		require.NoError(t, err)
		if function := strings.TrimPrefix(p[2], ":"); function != "" {
			code, err := os.ReadFile("../" + p[1])
			require.NoError(t, err)
			require.Regexp(t, `(?m)^func (\([^)]*\) )?`+function+`\b`, string(code))
		}
	}
}
