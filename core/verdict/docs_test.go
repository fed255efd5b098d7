package verdict

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// docs/verdicts.md has each reason for which a breaker changes its state.
func TestDocumentHasReasonsOfBreakers(t *testing.T) {
	text, err := os.ReadFile("../../docs/verdicts.md")
	require.NoError(t, err)
	source, err := os.ReadFile("../breaker/breaker.go")
	require.NoError(t, err)
	reasons := regexp.MustCompile(`(?m)^\tReason\w+ += "(\w+)"`).FindAllSubmatch(source, -1)
	require.Greater(t, len(reasons), 8)
	for _, reason := range append(reasons, [][]byte{nil, []byte("restart")}) {
		require.Contains(t, string(text), fmt.Sprintf("\n| `%s` |", reason[1]))
	}
}

var update = flag.Bool("update", false, "write the table into docs/verdicts.md")

// docs/verdicts.md has the same table of causes as the code. `go test ./core/verdict -run Document -update`
// writes the table into the document.
func TestTheDocumentShowsTheTable(t *testing.T) {
	const file, begin, end = "../../docs/verdicts.md", "<!-- table -->\n", "<!-- end of table -->\n"
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(text), begin)
	require.True(t, found, "%s has no %q", file, begin)
	shown, after, found := strings.Cut(rest, end)
	require.True(t, found, "%s has no %q", file, end)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(before+begin+document()+end+after), 0o644))
		return
	}
	require.Equal(t, document(), shown)
}

func document() string {
	var b strings.Builder
	b.WriteString("\n| cause | meaning | charged to | retried | may have reached the target |\n|---|---|---|---|---|\n")
	kinds := map[core.RetryKind]string{core.NoRetry: "no", core.RetryAfterBackoff: "yes",
		core.RetryElsewhere: "at once, through another proxy", core.Replay: "at once, on a new connection"}
	for c := range numCauses {
		r := &rows[c]
		sent := "yes"
		if r.unreached {
			sent = "no"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", r.name, r.meaning, r.charge, kinds[r.retry], sent)
	}
	b.WriteString("\n")
	return b.String()
}
