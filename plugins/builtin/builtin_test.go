package builtin

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// build.sh --check compiles every module again and compares the bytes.
func TestTheModulesMatchTheirSource(t *testing.T) {
	out, err := exec.Command("./build.sh", "--check").CombinedOutput()
	require.NoError(t, err, "%s", out)
}
