package empty

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/wasm-examples/internal/exampletest"
)

func TestRulings(t *testing.T) {
	p := exampletest.Judge(t, exampletest.Build(t, "."), nil)
	require.Equal(t, &core.ExcerptSpec{Body: 2048, Fields: []string{"content-type"},
		Statuses: []core.Range{{First: 200, Last: 200}, {First: 503, Last: 503}}}, p.ExcerptSpec())
	var out strings.Builder
	for _, c := range []struct {
		name   string
		status float64
		mime   string
		body   string
		whole  bool
	}{
		{"a page", 200, "text/html; charset=utf-8", "<h1>hello</h1>", true},
		{"an empty page", 200, "text/html; charset=utf-8", "", true},
		{"a page that has not come", 200, "text/html", "", false},
		{"an empty picture", 200, "image/png", "", true},
		{"no type", 200, "", "", true},
		{"overload", 503, "text/html", "<h1>try again</h1>", true},
		{"maintenance", 503, "text/html", "<h1>Scheduled MAINTENANCE</h1>", false},
	} {
		e := core.Excerpt{Body: []byte(c.body), Whole: c.whole}
		if c.mime != "" {
			e.Fields = []core.ExcerptField{{Name: "content-type", Value: []byte(c.mime)}}
		}
		q := core.JudgeRequest{Status: c.status}
		if c.whole {
			q.Whole = 1
		}
		fmt.Fprintf(&out, "%-25s %s\n", c.name+":", p.Rule(q, e).Kind)
	}
	exampletest.Output(t, ".", out.String())
}
