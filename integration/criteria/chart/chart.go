// Package chart draws line charts with confidence intervals, as SVG.
package chart

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// Chart is a chart of several series over the same categories or numbers.
type Chart struct {
	Title  string
	X, Y   string   // names of the axes, with units
	Ticks  []string // names of the positions on the x axis, from left to right
	Low    float64  // lower end of the y axis
	High   float64  // upper end of the y axis; values beyond the ends are drawn at the edge
	Format string   // format of the numbers on the y axis, for fmt; "" for "%g"
	Target float64  // position of a dashed line; NaN for none
	Series []Series // at most as many as there are colors
	Lines  bool     // join the points of a series: the x axis is a quantity
}

// Series is one line of a chart.
type Series struct {
	Name   string
	Points []Point // one point for each tick; Value is NaN if there is no value
}

// Point is a value with its confidence interval.
type Point struct{ Value, Low, High float64 }

// colors are the colors of Okabe and Ito (2008), which color-blind readers can distinguish.
var colors = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c8c8c", "#7f3b08"}

const (
	left, top     = 62.0, 34.0
	width, height = 560.0, 250.0
	legendWidth   = 170.0
)

// SVG returns the chart as an SVG document.
func (c *Chart) SVG() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" `+
		`font-size="12">`+"\n<title>%s</title>\n", left+width+legendWidth+14, top+height+58, escape(c.Title))
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	drawText(&b, left, 18, "start", `font-weight="bold"`, c.Title)
	c.drawAxes(&b)
	for i, s := range c.Series {
		c.drawSeries(&b, i, s)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (c *Chart) drawAxes(b *strings.Builder) {
	format := c.Format
	if format == "" {
		format = "%g"
	}
	const steps = 5
	for i := range steps + 1 {
		v := c.Low + (c.High-c.Low)*float64(i)/steps
		drawLine(b, left, c.y(v), left+width, c.y(v), `stroke="#dddddd"`)
		drawText(b, left-6, c.y(v)+4, "end", "", fmt.Sprintf(format, v))
	}
	for i, name := range c.Ticks {
		drawText(b, c.x(float64(i)), top+height+18, "middle", "", name)
	}
	drawText(b, left+width/2, top+height+42, "middle", "", c.X)
	fmt.Fprintf(b, `<text transform="translate(14 %.1f) rotate(-90)" text-anchor="middle">%s</text>`+"\n",
		top+height/2, escape(c.Y))
	if !math.IsNaN(c.Target) {
		drawLine(b, left, c.y(c.Target), left+width, c.y(c.Target), `stroke="black" stroke-dasharray="6 4"`)
	}
}

// drawSeries draws the i-th series: its points with their intervals, and its line in the legend. Points at the
// same tick are drawn side by side.
func (c *Chart) drawSeries(b *strings.Builder, i int, s Series) {
	color := colors[i%len(colors)]
	shift := (float64(i) - float64(len(c.Series)-1)/2) * min(0.5/float64(len(c.Series)), 0.06)
	var path []string
	for n, p := range s.Points {
		if math.IsNaN(p.Value) {
			continue
		}
		x := c.x(float64(n) + shift)
		path = append(path, fmt.Sprintf("%.1f,%.1f", x, c.y(p.Value)))
		if p.High > p.Low {
			drawLine(b, x, c.y(p.Low), x, c.y(p.High), fmt.Sprintf(`stroke="%s" stroke-opacity="0.5"`, color))
		}
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x, c.y(p.Value), color)
	}
	if c.Lines && len(path) > 1 {
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n",
			strings.Join(path, " "), color)
	}
	y := top + 8 + float64(i)*18
	fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", left+width+16, y-4, color)
	drawText(b, left+width+26, y, "start", "", s.Name)
}

func (c *Chart) x(tick float64) float64 {
	return left + width*(tick+0.5)/float64(max(len(c.Ticks), 1))
}

func (c *Chart) y(v float64) float64 {
	return top + height*(1-(min(max(v, c.Low), c.High)-c.Low)/(c.High-c.Low))
}

func drawLine(b *strings.Builder, x1, y1, x2, y2 float64, style string) {
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, style)
}

func drawText(b *strings.Builder, x, y float64, anchor, style, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, style, escape(s))
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s)) // cannot fail, because writes to a Builder never fail
	return b.String()
}
