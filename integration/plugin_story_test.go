package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// change replaces the text from, which the source must contain exactly once, by the text to.
type change struct{ from, to string }

// stories are changes of the scorer that `plugin new` writes, by language. The changes in logs make the scorer log a
// line in each call. The changes in breaks make it panic for the host origin.test.
var stories = map[string]struct{ logs, breaks []change }{
	"go": {
		[]change{
			{"	\"github.com/whirlpool-proxy/whirlpool/sdk/scorer\"\n",
				"	\"github.com/whirlpool-proxy/whirlpool/sdk/output\"\n" +
					"	\"github.com/whirlpool-proxy/whirlpool/sdk/scorer\"\n"},
			{"	for i := range candidates {", "	output.Info(\"scoring\")\n	for i := range candidates {"},
		},
		[]change{{"	for i := range candidates {", "	if req.HostHash == hash.Of(\"origin.test\") {\n" +
			"		panic(\"no spoon\")\n	}\n	for i := range candidates {"}},
	},
	"rust": {
		[]change{{"        for (score, candidate)",
			"        whirlpool::log(whirlpool::Level::Info, \"scoring\");\n        for (score, candidate)"}},
		[]change{
			{"score(&mut self, _: &RankRequest", "score(&mut self, request: &RankRequest"},
			{"        for (score, candidate)", "        if request.host_hash == hash53(\"origin.test\") {\n" +
				"            panic!(\"no spoon\");\n        }\n        for (score, candidate)"},
		},
	},
	"as": {
		[]change{
			{"Settings, hash53 }", "Settings, Level, hash53, log }"},
			{"  for (let i = 0; i < count; i++) {\n    const c",
				"  log(Level.INFO, \"scoring\");\n  for (let i = 0; i < count; i++) {\n    const c"},
		},
		[]change{
			{"let prefer: f64", "const broken = hash53(\"origin.test\");\nlet prefer: f64"},
			{"  for (let i = 0; i < count; i++) {\n    const c",
				"  if (request.hostHash == broken) throw new Error(\"no spoon\");\n" +
					"  for (let i = 0; i < count; i++) {\n    const c"},
		},
	},
	"c": {
		[]change{{"  (void)request;\n", "  wp_log(WP_INFO, \"scoring\");\n  (void)request;\n"}},
		[]change{{"  (void)request;\n",
			"  if (request->host_hash == wp_hash53(\"origin.test\", 11)) wp_panic(\"no spoon\");\n"}},
	},
	"cpp": {
		[]change{{"  for (int32_t i = 0; i < count; i++) {\n    scores",
			"  wp_log(WP_INFO, \"scoring\");\n  for (int32_t i = 0; i < count; i++) {\n    scores"}},
		[]change{
			{"score(const wp_rank_request *,", "score(const wp_rank_request *request,"},
			{"  for (int32_t i = 0; i < count; i++) {\n    scores",
				"  if (request->host_hash == wp_hash53(\"origin.test\", 11)) wp_panic(\"no spoon\");\n" +
					"  for (int32_t i = 0; i < count; i++) {\n    scores"},
		},
	},
	"zig": {
		[]change{{"    for (candidates, scores) |*c, *s| {",
			"    wp.log(.info, \"scoring\");\n    for (candidates, scores) |*c, *s| {"}},
		[]change{
			{"score(_: *const wp.RankRequest", "score(request: *const wp.RankRequest"},
			{"    for (candidates, scores) |*c, *s| {",
				"    if (request.host_hash == wp.hash(\"origin.test\")) wp.fail(@src(), \"no spoon\");\n" +
					"    for (candidates, scores) |*c, *s| {"},
		},
	},
}

func (p *project) apply(changes []change) {
	p.t.Helper()
	for _, c := range changes {
		p.edit(c.from, c.to)
	}
}

// For each language, the test writes a plugin, pushes it, reads its log line, adds an error, reads the panic with file
// and line, corrects the error, and rolls back.
func TestAPluginIsWrittenPushedAndCorrected(t *testing.T) {
	require.Len(t, stories, len(sources))
	for lang := range sources {
		t.Run(lang, func(t *testing.T) { runPluginStory(t, lang) })
	}
}

func runPluginStory(t *testing.T, lang string) {
	p := newProject(t, lang, "scorer")
	w := start(t, 3, confK)
	w.mayPanic = true
	whirlpool := func(args ...string) string {
		t.Helper()
		out, errs, code := command(t, append(append([]string{"plugin"}, args...), "--to", "http://"+w.api)...)
		require.Zero(t, code, errs)
		return out
	}
	push := func(args ...string) {
		t.Helper()
		p.make("build")
		whirlpool(append([]string{"push", filepath.Join(p.dir, "mine.wasm")}, args...)...)
	}
	faults := func() float64 { return w.getJSON("/plugins/mine")["faults"].(float64) }
	next, _ := w.events("?type=plugin_log,plugin_fault,plugin_quarantine", "")

	p.apply(stories[lang].logs)
	push("--activate", "first")
	require.Equal(t, 200, w.get().status)
	require.Contains(t, whirlpool("logs", "mine"), " info  scoring\n")
	e := next()
	require.Equal(t, "plugin_log", e.kind)
	require.Equal(t, "scoring", e.data["text"])

	p.apply(stories[lang].breaks)
	push()
	require.Zero(t, faults(), "it fails for one host only, which no check asks for")
	for range 6 {
		require.Equal(t, 200, w.get().status, "the built-in answers")
	}
	log := whirlpool("logs", "mine")
	require.Contains(t, log, "no spoon")
	place := regexp.MustCompile(regexp.QuoteMeta(filepath.Base(p.source)) + `:(\d+)`).FindStringSubmatch(log)
	require.NotNil(t, place, "the panic has its place:\n%s", log)
	text, err := os.ReadFile(p.source)
	require.NoError(t, err)
	line := 0
	for i, l := range strings.Split(string(text), "\n") {
		if strings.Contains(l, "no spoon") {
			line = i + 1
		}
	}
	require.Equal(t, strconv.Itoa(line), place[1])
	require.Contains(t, whirlpool("list"), "quarantined")
	for e = next(); e.kind != "plugin_quarantine"; e = next() {
	}
	require.Contains(t, e.data["error"], "no spoon")

	p.edit("origin.test", "elsewhere.test")
	push()
	before := faults()
	require.Equal(t, 200, w.get().status)
	require.Equal(t, before, faults(), "it is mended")
	require.Equal(t, "ready", w.getJSON("/plugins/mine")["state"])

	whirlpool("rollback", "mine")
	require.Equal(t, 200, w.get().status)
	require.Equal(t, before+1, faults(), "the module before the last push is broken")
}
