package chart

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// elements parses a document and counts its elements by name.
func elements(t require.TestingT, svg string) map[string]int {
	d, count := xml.NewDecoder(strings.NewReader(svg)), map[string]int{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return count
		}
		require.NoError(t, err, svg)
		if e, ok := token.(xml.StartElement); ok {
			count[e.Name.Local]++
		}
	}
}

func TestSVG(t *testing.T) {
	c := Chart{
		Title: "a < b & c", X: "p", Y: "share", Ticks: []string{"0.1", "0.2", "0.5"}, High: 1, Target: 0.9, Lines: true,
		Series: []Series{
			{"ours", []Point{{0.9, 0.8, 0.95}, {0.8, 0.7, 0.9}, {0.5, 0.4, 0.6}}},
			{"<theirs>", []Point{{0.7, 0.7, 0.7}, {math.NaN(), 0, 1}, {0.1, 0, 0.2}}},
		},
	}
	svg := c.SVG()
	count := elements(t, svg)
	require.Equal(t, 1, count["svg"])
	require.Equal(t, 2, count["polyline"])
	require.Equal(t, 5+2, count["circle"], "five points and two of the legend")
	require.Equal(t, 6+1+4, count["line"], "grid, target, and the intervals that have a length")
	require.Contains(t, svg, "a &lt; b &amp; c")
}

// Each chart is well-formed XML, and nothing is outside its view.
func TestAnySVGIsWellFormed(t *testing.T) {
	value := rapid.OneOf(rapid.Float64Range(-1e6, 1e6), rapid.Just(math.NaN()))
	coordinate := regexp.MustCompile(` (?:x|y|cx|cy|x1|y1|x2|y2)="([^"]*)"`)
	rapid.Check(t, func(t *rapid.T) {
		c := Chart{
			Title: rapid.String().Draw(t, "title"), X: rapid.String().Draw(t, "x"), High: 1,
			Target: value.Draw(t, "target"),
			Ticks:  rapid.SliceOfN(rapid.String(), 1, 6).Draw(t, "ticks"), Lines: rapid.Bool().Draw(t, "lines"),
		}
		for range rapid.IntRange(0, 12).Draw(t, "series") {
			s := Series{Name: rapid.String().Draw(t, "name")}
			for range c.Ticks {
				v := value.Draw(t, "value")
				s.Points = append(s.Points, Point{v, v - 1, v + 1})
			}
			c.Series = append(c.Series, s)
		}
		svg := c.SVG()
		elements(t, svg)
		for _, m := range coordinate.FindAllStringSubmatch(svg, -1) {
			v, err := strconv.ParseFloat(m[1], 64)
			require.NoError(t, err)
			require.True(t, v >= 0 && v <= left+width+legendWidth+14, m[0])
		}
	})
}
