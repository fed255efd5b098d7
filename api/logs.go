package api

import (
	"math"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
)

// lineView is a log line of a plugin.
type lineView struct {
	Number uint64    `json:"number"` // 1 for the plugin's first line
	At     time.Time `json:"at"`
	Level  string    `json:"level"` // debug, info, warn or error
	Text   string    `json:"text"`
}

func viewOfLine(l output.Line) lineView {
	return lineView{l.Number, l.At.UTC(), l.Level.String(), l.Text}
}

func viewsOfLines(lines []output.Line) []lineView {
	out := make([]lineView, len(lines))
	for i, l := range lines {
		out[i] = viewOfLine(l)
	}
	return out
}

// getLog responds with the last log lines of a plugin. With the query parameter "after", only lines with a greater
// number are in the response.
func (h *pluginHandler) getLog(c *fiber.Ctx) error {
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

// lastLine returns the number of a plugin's last log line; 0 for none.
func (h *pluginHandler) lastLine(name string) uint64 {
	lines, _ := h.registry.Log(name, 0)
	if len(lines) == 0 {
		return 0
	}
	return lines[len(lines)-1].Number
}

// settingView is the JSON of a setting that a module declares.
type settingView struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"` // number, integer, boolean or text
	Min     *float64 `json:"min,omitempty"`
	Max     *float64 `json:"max,omitempty"`
	Values  []string `json:"values,omitempty"` // permitted texts of a setting of type text
	Default string   `json:"default,omitempty"`
	Text    string   `json:"text,omitempty"`
	Value   string   `json:"value,omitempty"` // absent for a text without permitted values: it may be secret
}

func viewsOfSettings(settings []plugins.SettingValue) []settingView {
	out := make([]settingView, len(settings))
	for i, s := range settings {
		out[i] = settingView{s.Name, s.Type, s.Min, s.Max, s.Values, s.Default, s.Setting.Text, s.Value}
	}
	return out
}

// configure changes settings of an uploaded plugin.
func (h *pluginHandler) configure(c *fiber.Ctx) error {
	var input struct {
		Config map[string]any `json:"config"` // null removes a setting
	}
	persist, err := decodeChange(c, &input)
	if err != nil {
		return err
	}
	if input.Config == nil {
		return badField("config", "config must be a JSON object with the settings to change")
	}
	u, err := h.registry.Configure(c.Params("name"), input.Config, persist)
	return h.awaitUpload(c, u, err, fiber.StatusOK)
}
