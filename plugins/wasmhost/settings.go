package wasmhost

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// Setting is one setting of a module, as the export "describe" declares it.
type Setting struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`              // number, integer, boolean or text
	Min     *float64 `json:"min,omitempty"`     // minimum of a number; nil for no bound
	Max     *float64 `json:"max,omitempty"`     // maximum of a number; nil for no bound
	Values  []string `json:"values,omitempty"`  // permitted texts; empty if every text is permitted
	Default string   `json:"default,omitempty"` // the value as the configuration writes it
	Text    string   `json:"text,omitempty"`    // description of the setting in one line
}

// The types of settings.
const (
	typeNumber  = "number"
	typeInteger = "integer"
	typeBoolean = "boolean"
	typeText    = "text"
)

// The limits for the text that the export "describe" returns.
const (
	maxDescription = 16 << 10 // bytes
	maxSettings    = 100
)

// IsFreeText reports whether the setting accepts any text.
func (s *Setting) IsFreeText() bool { return s.Type == typeText && len(s.Values) == 0 }

// Settings returns the settings that the module declares. It returns nil if the module does not export "describe", or
// if no instance has been started yet.
func (m *Module) Settings() []Setting {
	if s := m.settings.Load(); s != nil {
		return *s
	}
	return nil
}

// readSettings calls the module's export "describe".
func (in *instance) readSettings(f *exportedFunc) ([]Setting, error) {
	text, err := in.callText(f)
	if err != nil {
		return nil, err
	}
	return parseSettings(text)
}

// callText calls an exported function that returns the address of a text with a zero byte at its end.
func (in *instance) callText(f *exportedFunc) (string, error) {
	if err := in.invoke(f); err != nil {
		return "", err
	}
	at := uint32(in.stack[0])
	if at >= in.memory.Size() {
		return "", fmt.Errorf("it returned %d, which is past the end of memory", at)
	}
	view, _ := in.memory.Read(at, min(in.memory.Size()-at, maxDescription+1))
	end := bytes.IndexByte(view, 0)
	if end < 0 {
		return "", fmt.Errorf("the text at %d has no zero byte at its end, or more than %d bytes", at, maxDescription)
	}
	return string(view[:end]), nil
}

// parseSettings parses the text that the export "describe" returns. Each line is one setting: its name, type, range,
// default and description, separated by tabs.
func parseSettings(text string) ([]Setting, error) {
	settings := []Setting{}
	for n, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if line == "" {
			continue
		}
		s, err := parseSetting(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
		if slices.ContainsFunc(settings, func(other Setting) bool { return other.Name == s.Name }) {
			return nil, fmt.Errorf("line %d: the setting %q is declared twice", n+1, s.Name)
		}
		if settings = append(settings, s); len(settings) > maxSettings {
			return nil, fmt.Errorf("it states more than %d settings", maxSettings)
		}
	}
	return settings, nil
}

func parseSetting(line string) (Setting, error) {
	fields := strings.Split(line, "\t")
	if len(fields) > 5 {
		return Setting{}, errors.New("it has more than name, type, range, default and description")
	}
	fields = append(fields, make([]string, 5-len(fields))...)
	s := Setting{Name: fields[0], Type: fields[1], Default: fields[3], Text: printable(fields[4])}
	if s.Name == "" || printable(s.Name) != s.Name || len(s.Name) > MaxName {
		return Setting{}, fmt.Errorf("a setting's name has 1 to %d characters", MaxName)
	}
	var err error
	switch {
	case !slices.Contains([]string{typeNumber, typeInteger, typeBoolean, typeText}, s.Type):
		err = fmt.Errorf("its type %q is none of number, integer, boolean and text", printable(s.Type))
	case fields[2] == "":
	case s.Type == typeText:
		s.Values = strings.Split(fields[2], "|")
	case s.Type == typeBoolean:
		err = errors.New("a boolean has no range")
	default:
		s.Min, s.Max, err = parseRange(fields[2])
	}
	if err == nil && s.Default != "" {
		if err = s.check(pair{s.Name, s.Default}); err != nil {
			err = fmt.Errorf("its default: %w", err)
		}
	}
	if err != nil {
		return Setting{}, fmt.Errorf("the setting %q: %w", s.Name, err)
	}
	return s, nil
}

// parseRange parses an inclusive range such as 0..1, 0.. or ..1.
func parseRange(text string) (low, high *float64, err error) {
	a, b, ok := strings.Cut(text, "..")
	if !ok {
		return nil, nil, fmt.Errorf("its range %q is not of the form 0..1", printable(text))
	}
	for _, end := range []struct {
		text string
		to   **float64
	}{{a, &low}, {b, &high}} {
		if end.text == "" {
			continue
		}
		v, err := strconv.ParseFloat(end.text, 64)
		if err != nil || !(math.Abs(v) <= math.MaxFloat64) {
			return nil, nil, fmt.Errorf("%q in its range is not a finite number", printable(end.text))
		}
		*end.to = &v
	}
	return low, high, nil
}

// check returns an error if the setting does not permit the value of p.
func (s Setting) check(p pair) error {
	mustBe := func(must string) error {
		return fmt.Errorf("the setting %s is %q; it must be %s", s.Name, printable(p.value), must)
	}
	n := p.number()
	switch s.Type {
	case typeBoolean:
		if p.value != "true" && p.value != "false" {
			return mustBe("true or false")
		}
	case typeText:
		if len(s.Values) > 0 && !slices.Contains(s.Values, p.value) {
			return mustBe(strings.Join(s.Values, ", ") + " (one of them)")
		}
	default:
		if math.IsNaN(n) || math.IsInf(n, 0) || p.value == "true" || p.value == "false" {
			return mustBe("a " + s.Type)
		}
		if s.Type == typeInteger && n != math.Trunc(n) {
			return mustBe("an integer")
		}
		if s.Min != nil && n < *s.Min || s.Max != nil && n > *s.Max {
			return mustBe(s.bounds())
		}
	}
	return nil
}

func (s Setting) bounds() string {
	switch {
	case s.Max == nil:
		return "at least " + settingText(*s.Min)
	case s.Min == nil:
		return "at most " + settingText(*s.Max)
	}
	return settingText(*s.Min) + " to " + settingText(*s.Max)
}

// checkSettings checks the configuration of a module that declares its settings.
func checkSettings(settings []Setting, config []pair) error {
	for _, p := range config {
		at := slices.IndexFunc(settings, func(s Setting) bool { return s.Name == p.key })
		if at < 0 {
			names := make([]string, len(settings))
			for i, s := range settings {
				names[i] = s.Name
			}
			return fmt.Errorf("there is no setting %q; there are %s", printable(p.key), strings.Join(names, ", "))
		}
		if err := settings[at].check(p); err != nil {
			return err
		}
	}
	return nil
}

// checkConfig compares the configuration with the settings that the module declares, if it exports "describe".
func (in *instance) checkConfig(config []pair) error {
	f := in.export(abi.Describe)
	if f == nil {
		return nil
	}
	settings, err := in.readSettings(f)
	if err != nil {
		return fmt.Errorf("%s failed: %w", abi.Describe, err)
	}
	in.module.settings.Store(&settings)
	if err := checkSettings(settings, config); err != nil {
		return &SettingError{err}
	}
	return nil
}

// SettingError reports a setting that the module's own declarations do not permit.
type SettingError struct{ err error }

func (e *SettingError) Error() string { return e.err.Error() }
