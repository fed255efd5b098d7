// Package settings declares the settings of a plugin. The host shows them to users, and checks a configuration before
// the plugin gets it. Import the package only in a plugin that declares settings.
package settings

import (
	"strconv"
	"strings"
)

// Setting is one setting of [plugins.NAME.config].
type Setting struct {
	name, kind, valid, preset, text string
}

// Number declares a setting that is a number from low to high. The parameter text describes the setting in one line.
// The parameter preset is the default.
func Number(name string, low, high, preset float64, text string) Setting {
	return Setting{name, "number", number(low) + ".." + number(high), number(preset), text}
}

// Integer declares a setting that is a whole number from low to high.
func Integer(name string, low, high, preset int64, text string) Setting {
	return Setting{name, "integer", strconv.FormatInt(low, 10) + ".." + strconv.FormatInt(high, 10),
		strconv.FormatInt(preset, 10), text}
}

// Boolean declares a setting that is true or false.
func Boolean(name string, preset bool, text string) Setting {
	return Setting{name, "boolean", "", strconv.FormatBool(preset), text}
}

// Text declares a setting that is one of the given values, or any text if no values are given.
func Text(name, preset, text string, values ...string) Setting {
	return Setting{name, "text", strings.Join(values, "|"), preset, text}
}

func number(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }

// stated is the text that the exported function "describe" returns. The text ends with a zero byte.
//
//lint:ignore U1000 the function describe uses it, only in the WebAssembly build
var stated = "\x00"

// State declares the settings of the plugin. The host refuses all other settings, and values out of range.
// Call it from an init function: the host does not run main.
func State(all ...Setting) {
	var b strings.Builder
	for _, s := range all {
		for i, field := range []string{s.name, s.kind, s.valid, s.preset, s.text} {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(strings.NewReplacer("\t", " ", "\n", " ", "\x00", " ").Replace(field))
		}
		b.WriteByte('\n')
	}
	b.WriteByte(0)
	stated = b.String()
}
