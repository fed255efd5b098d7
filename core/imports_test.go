package core_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/whirlpool-proxy/whirlpool/"

// onlyIn maps each large dependency to the packages that may import it.
var onlyIn = map[string]string{
	"github.com/tetratelabs/wazero": "plugins/wasmhost",
	"github.com/gofiber/fiber":      "api",
	"github.com/valyala/fasthttp":   "api",
	"github.com/knadh/koanf":        "cmd",
	"github.com/pelletier/go-toml":  "cmd",
	"github.com/spf13/cobra":        "cmd",
	"github.com/fsnotify/fsnotify":  "cmd",
	"github.com/coreos/go-systemd":  "cmd",
	"github.com/charmbracelet":      "cmd/whirlpool/top cmd/whirlpool",
	"github.com/uber-go/tally":      "core/metrics",
	"github.com/cactus":             "core/metrics/push",
	"github.com/prometheus":         "core/metrics",
	"github.com/oschwald/maxminddb": "cmd/whirlpool/geo",
	"github.com/maxmind/mmdbwriter": "cmd/whirlpool/geo/geotest",
	"github.com/icholy/digest":      "core/transport",
	"github.com/dunglas/httpsfv":    "core/retry core/transport",
	"golang.org/x/net":              "core/egress core/engine",
	"golang.org/x/sys":              "core/socket",
	"golang.org/x/time":             "core/limit",
	"golang.org/x/crypto":           "core/access",
	"golang.org/x/term":             "cmd",
	"oras.land/oras-go":             "plugins/source",
	"aead.dev/minisign":             "plugins/source",
	"github.com/redis/rueidis":      "core/cluster/redisstore",
}

func TestLargeDependenciesAreImportedInOnePlace(t *testing.T) {
	for pkg, imports := range importGraph(t) {
		for _, imp := range imports {
			for dep, folders := range onlyIn {
				if !strings.HasPrefix(imp, dep) {
					continue
				}
				ok := strings.HasPrefix(pkg, "integration")
				for _, folder := range strings.Fields(folders) {
					ok = ok || pkg == folder || strings.HasPrefix(pkg, folder+"/")
				}
				require.True(t, ok, "%s imports %s; only %s may import it", pkg, imp, folders)
			}
		}
	}
}

// allowed lists the packages of core, and which other packages of core each may import. Each package is listed after
// the packages that it imports, so this is a good order to read the packages.
var allowed = map[string]string{
	"core/traffic":      "",
	"core/socket":       "traffic",
	"core/http1":        "",
	"core/socks5":       "",
	"core/egress":       "",
	"core/loop":         "",
	"core/strict":       "",
	"core/spool":        "",
	"core/state":        "",
	"core/logfold":      "",
	"core/queue":        "",
	"core/ability":      "",
	"core/budget":       "",
	"core/breaker":      "",
	"core/evidence":     "",
	"core/minutes":      "",
	"core/ban":          "",
	"core/intercept":    "",
	"core/session":      "strict",
	"core/retry":        "strict",
	"core/share":        "",
	"core/access":       "egress share retry traffic",
	"core/verdict":      "",
	"core/metrics":      "minutes verdict",
	"core/metrics/push": "",
	"core/preview":      "retry verdict",
	"core/trace":        "",
	"core/accesslog":    "trace verdict",
	"core/rules":        "egress retry strict verdict",
	"core/limit":        "egress share rules traffic",
	"core/upstream":     "ability breaker evidence limit share ban strict traffic verdict",
	"core/proxylist":    "strict upstream",
	"core/changes":      "retry state strict traffic upstream",
	"core/selector":     "ability limit ban upstream",
	"core/health":       "ability evidence upstream verdict",
	"core/transport":    "ability budget health http1 loop socket socks5 traffic upstream verdict",
	"core/reach":        "breaker upstream verdict",
	"core/executor":     "ability evidence queue ban retry rules selector session traffic upstream verdict",
	"core/proxyhttp":    "evidence executor http1 transport upstream verdict",
	"core/gateway": "access accesslog budget executor http1 intercept loop proxyhttp retry session socket socks5 " +
		"traffic transport verdict trace",
	"core/engine": "access accesslog breaker budget egress executor gateway health http1 intercept limit loop " +
		"metrics share proxyhttp queue reach ban retry rules selector session trace transport upstream",

	"core/cluster":            "share",
	"core/cluster/redisstore": "cluster",

	"core/eventstream":       "",
	"core/coretest":          "",
	"core/coretest/testcert": "",
}

func TestImportsWithinCore(t *testing.T) {
	for pkg, imports := range importGraph(t) {
		if !strings.HasPrefix(pkg, "core/") {
			continue
		}
		permitted, listed := allowed[pkg]
		require.True(t, listed, "%s is new: list in this test which packages it may import", pkg)
		for _, imp := range imports {
			if own, ok := strings.CutPrefix(imp, module+"core/"); ok {
				require.Contains(t, strings.Fields(permitted), own, "%s imports core/%s", pkg, own)
			}
		}
	}
}

// registryImports are the packages below plugins that the registry may import. The other ones are tools for
// authors of plugins and for the checks of uploads.
var registryImports = []string{"plugins/builtin", "plugins/output", "plugins/source", "plugins/wasmhost"}

func TestImportsPointToCore(t *testing.T) {
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
				t.Errorf("%s imports %s: core imports only core", pkg, own)
			}
			if strings.HasPrefix(pkg, "sdk/abi") {
				t.Errorf("%s imports %s: sdk/abi imports nothing", pkg, own)
			}
			if pkg == "plugins" && strings.HasPrefix(own, "plugins/") && !slices.Contains(registryImports, own) {
				t.Errorf("plugins imports %s: the registry needs no tool", own)
			}
			if (pkg == "api" || strings.HasPrefix(pkg, "plugins")) && strings.HasPrefix(own, "cmd") {
				t.Errorf("%s imports %s: only cmd imports cmd", pkg, own)
			}
		}
	}
}

// importGraph maps each package of the module, by its path inside the module, to its
// imports. It leaves out tests and packages that have only tests.
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
