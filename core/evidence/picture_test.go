//go:build !race

package evidence

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/evidence.svg")

const pictureFile = "../../docs/evidence.svg"

// curve is the evidence against proxy 0 after each of its attempts.
type curve struct {
	label, color string
	evidence     []float64
	opened       bool
}

// simulate records 60 attempts of proxy 0 in a pool of eight with three targets. The failures begin after the first 20
// attempts.
func (c *curve) simulate(seed uint64, fails func(p *pool, broken bool, proxy, target int) fault) {
	p := newPool(8, 50, seed)
	p.target = func() int { return p.rng.IntN(3) }
	x := p.proxies[0]
	warm := false
	p.fails = func(proxy, target int) fault { return fails(p, warm && x.attempts > 20, proxy, target) }
	for range 2000 { // the ledger measures the noise
		p.request()
	}
	warm = true
	p.mark()
	for len(c.evidence) < 60 && !c.opened {
		n := x.attempts
		p.request()
		if x.attempts > n {
			c.evidence = append(c.evidence, max(x.book.Report(p.ledger).Evidence, 0))
		}
		if c.opened = p.opened[0] > 0; c.opened {
			c.evidence[len(c.evidence)-1] = x.evidence
		}
	}
}

func TestPicture(t *testing.T) {
	dying := curve{label: "a proxy that dies", color: "#c0392b"}
	dying.simulate(1, func(p *pool, broken bool, proxy, _ int) fault {
		if broken && proxy == 0 {
			return either
		}
		return p.noise(0.01, either)
	})
	target := curve{label: "a proxy whose target dies", color: "#2471a3"}
	target.simulate(1, func(p *pool, broken bool, _, target int) fault {
		if broken && target == 0 {
			return either
		}
		return p.noise(0.01, either)
	})
	noisy := curve{label: "a proxy in a pool with 20 % noise", color: "#b7950b"}
	noisy.simulate(5, func(p *pool, _ bool, _, _ int) fault { return p.noise(0.2, either) })
	require.True(t, dying.opened)
	require.False(t, target.opened || noisy.opened)

	got := picture(dying, target, noisy)
	if *update {
		require.NoError(t, os.WriteFile(pictureFile, []byte(got), 0o644))
	}
	want, err := os.ReadFile(pictureFile)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "go test ./core/evidence -run Picture -update writes it")
}

// picture draws the curves as an SVG.
func picture(curves ...curve) string {
	const left, top, width, height, most = 50, 20, 600, 220, 22.0
	x := func(n int) float64 { return left + float64(n)*width/60 }
	y := func(nats float64) float64 { return top + height - nats*height/most }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 350"`+
		` font-family="sans-serif" font-size="12">
<title>Evidence against a proxy over its attempts, in three situations</title>
<rect width="680" height="350" fill="white"/>
`)
	line := func(x1, y1, x2, y2 float64, style string) {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, style)
	}
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, s)
	}
	for nats := 0; nats <= 20; nats += 5 {
		line(left, y(float64(nats)), left+width, y(float64(nats)), `stroke="#dddddd"`)
		text(left-6, y(float64(nats))+4, "end", fmt.Sprint(nats))
	}
	for n := 0; n <= 60; n += 10 {
		text(x(n), y(0)+16, "middle", fmt.Sprint(n))
	}
	line(left, y(NeededEvidence), left+width, y(NeededEvidence), `stroke="black" stroke-dasharray="6 4"`)
	text(left+width, y(NeededEvidence)-5, "end", "needed: 13.5 nats")
	line(x(20), y(0), x(20), top, `stroke="#999999" stroke-dasharray="2 3"`)
	text(x(20)-5, top+10, "end", "the proxy, or the target, dies")
	text(left+width/2, y(0)+32, "middle", "attempts through the proxy")
	text(left-35, top-6, "start", "evidence (nats)")
	for i, c := range curves {
		points := make([]string, 0, len(c.evidence)+1)
		for n, e := range c.evidence {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(n+1), y(min(e, most))))
		}
		fmt.Fprintf(&b, `<polyline points="%.1f,%.1f %s" fill="none" stroke="%s" stroke-width="2"/>`+"\n",
			x(0), y(0), strings.Join(points, " "), c.color)
		if c.opened {
			last := len(c.evidence)
			text(x(last)+6, y(min(c.evidence[last-1], most))+12, "start", "the breaker opens")
		}
		line(left, y(0)+52+float64(i)*16, left+24, y(0)+52+float64(i)*16,
			fmt.Sprintf(`stroke="%s" stroke-width="2"`, c.color))
		text(left+30, y(0)+56+float64(i)*16, "start", c.label)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
