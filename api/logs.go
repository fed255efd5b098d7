package api

import (
	"math"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// lineView is a log line of a plugin.
type lineView struct {
	Number uint64    `json:"number"` // 1 for the plugin's first line
	At     time.Time `json:"at"`
	Level  string    `json:"level"` // debug, info, warn or error
	Text   string    `json:"text"`
}

func viewsOfLines(lines []output.Line) []lineView {
	out := make([]lineView, len(lines))
	for i, l := range lines {
		out[i] = lineView{l.Number, l.At.UTC(), l.Level.String(), l.Text}
	}
	return out
}

// log responds with the last log lines of a plugin, or those after a number.
func (h *pluginHandler) log(c *fiber.Ctx) error {
	after, err := queryInt(c, "after", 0, math.MaxInt, 0)
	if err != nil {
		return err
	}
	lines, err := h.registry.Log(c.Params("name"), uint64(after))
	if err != nil {
		return err
	}
	return send(c, fiber.Map{"lines": viewsOfLines(lines)})
}

// lastLine returns the number of the last line that a plugin wrote.
func (h *pluginHandler) lastLine(name string) uint64 {
	lines, _ := h.registry.Log(name, 0)
	if len(lines) == 0 {
		return 0
	}
	return lines[len(lines)-1].Number
}

// settingView is a setting that a module states.
type settingView struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"` // number, integer, boolean or text
	Min     *float64 `json:"min,omitempty"`
	Max     *float64 `json:"max,omitempty"`
	Values  []string `json:"values,omitempty"` // of texts, those that are taken
	Default string   `json:"default,omitempty"`
	Text    string   `json:"text,omitempty"`
}

func viewsOfSettings(settings []wasmhost.Setting) []settingView {
	out := make([]settingView, len(settings))
	for i, s := range settings {
		out[i] = settingView(s)
	}
	return out
}
