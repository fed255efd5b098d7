package core_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/whirlpool-proxy/whirlpool/"

// Each heavy dependency stops at one package; nothing else may reach it, not
// even through somebody else.
var onlyIn = map[string][]string{
	"github.com/tetratelabs/wazero": {"plugins"},
	"github.com/gofiber/fiber":      {"api"},
	"github.com/knadh/koanf":        {"cmd"},
	"github.com/uber-go/tally":      {"core/metrics"},
}

func TestHeavyDependenciesStopWhereTheyShould(t *testing.T) {
	for pkg, imports := range importGraph(t) {
		for _, imp := range imports {
			for dep, folders := range onlyIn {
				if !strings.HasPrefix(imp, dep) {
					continue
				}
				ok := strings.HasPrefix(pkg, "integration")
				for _, f := range folders {
					ok = ok || pkg == f || strings.HasPrefix(pkg, f+"/")
				}
				require.True(t, ok, "%s imports %s, which only %v may", pkg, imp, folders)
			}
		}
	}
}

func TestArrowsPointToCore(t *testing.T) {
	for pkg, imports := range importGraph(t) {
		for _, imp := range imports {
			own, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if pkg == "core" {
				t.Errorf("core imports %s; it imports the standard library only", own)
			}
			if strings.HasPrefix(pkg, "core/") && !strings.HasPrefix(own, "core") {
				t.Errorf("%s imports %s: arrows point to core, never out of it", pkg, own)
			}
			if strings.HasPrefix(pkg, "sdk/abi") {
				t.Errorf("%s imports %s: sdk/abi imports nothing", pkg, own)
			}
			if (pkg == "api" || strings.HasPrefix(pkg, "plugins")) && strings.HasPrefix(own, "cmd") {
				t.Errorf("%s imports %s: cmd knows everyone, nobody knows cmd", pkg, own)
			}
		}
	}
}

// importGraph maps each package of the module, by its path inside it, to what
// it imports; tests and test-only packages are left out.
func importGraph(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").CombinedOutput()
	require.NoError(t, err, "%s", out)
	graph := map[string][]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		words := strings.Fields(line)
		graph[strings.TrimPrefix(words[0], module)] = words[1:]
	}
	require.Contains(t, graph, "core")
	return graph
}
