// Package configure passes the settings of a plugin, the table [plugins.NAME.config], to the plugin. A module that
// does not import the package has no settings.
package configure

import (
	"errors"
	"math"
	"strconv"
)

// Configurer is a plugin that receives settings.
type Configurer interface {
	// Configure is called once, before any other call, even if the configuration has no settings. It reads the
	// plugin's settings from s. If it returns an error, or if a setting in s is invalid, the plugin is not
	// loaded.
	Configure(s *Settings) error
}

//lint:ignore U1000 the export reads it
var plugin Configurer

// Register sets the plugin's Configurer. Call it from an init function: the host does not run main.
func Register(c Configurer) { plugin = c }

// Apply configures c as the host does. It returns the error of c, or an error that names a setting with the
// wrong type, a setting out of its range, or a setting that c does not read.
func Apply(c Configurer, s *Settings) error {
	if err := c.Configure(s); err != nil {
		return err
	}
	return s.err()
}

// Setting is one key of the table and its value. The key of a setting in a nested table has dots: limits.low.
type Setting struct {
	Key, Value string
}

// Settings holds the settings of a plugin. Each method returns the setting with the given key, or fallback if the
// configuration does not have the key. If a setting is invalid, the plugin is not loaded; the error is reported after
// Configure has returned.
type Settings struct {
	list  []Setting
	asked []string
	wrong error // the first error
}

// New returns settings for tests of a plugin.
func New(list ...Setting) *Settings { return &Settings{list: list} }

// String returns a setting that is a text, or fallback if it is not set.
func (s *Settings) String(key, fallback string) string {
	if text, set := s.find(key); set {
		return text
	}
	return fallback
}

// Float returns a setting that is a number from low to high, or fallback if it is not set. The limits low and high may
// be infinite.
func (s *Settings) Float(key string, fallback, low, high float64) float64 {
	text, set := s.find(key)
	if !set {
		return fallback
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= low && f <= high) {
		s.fail(key, text, "a number"+within(low, high))
		return fallback
	}
	return f
}

// Int returns a setting that is a whole number from low to high, or fallback if it is not set.
func (s *Settings) Int(key string, fallback, low, high int) int {
	text, set := s.find(key)
	if !set {
		return fallback
	}
	f, err := strconv.ParseFloat(text, 64) // the host writes large numbers as 1e+06
	if err != nil || f != math.Trunc(f) || !(f >= float64(low) && f <= float64(high)) {
		s.fail(key, text, "a whole number"+within(float64(low), float64(high)))
		return fallback
	}
	return int(f)
}

// Bool returns a setting that is true or false, or fallback if it is not set.
func (s *Settings) Bool(key string, fallback bool) bool {
	text, set := s.find(key)
	if set && text != "true" && text != "false" {
		s.fail(key, text, "true or false")
	}
	if !set {
		return fallback
	}
	return text == "true"
}

func (s *Settings) find(key string) (text string, set bool) {
	s.asked = append(s.asked, key)
	for _, o := range s.list {
		if o.Key == key {
			return o.Value, true
		}
	}
	return "", false
}

func within(low, high float64) string {
	number := func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
	switch {
	case math.IsInf(low, -1) && math.IsInf(high, 1):
		return ""
	case math.IsInf(high, 1):
		return " of at least " + number(low)
	case math.IsInf(low, -1):
		return " of at most " + number(high)
	}
	return " from " + number(low) + " to " + number(high)
}

func (s *Settings) fail(key, value, must string) {
	if s.wrong == nil {
		s.wrong = errors.New("the setting " + key + " is " + strconv.Quote(value) + "; it must be " + must)
	}
}

// err returns the first error in the settings, or nil. A setting that Configure has not read is an
// error.
func (s *Settings) err() error {
	for _, o := range s.list {
		if s.wrong == nil && !s.knows(o.Key) {
			s.wrong = errors.New("there is no setting " + o.Key + s.known())
		}
	}
	return s.wrong
}

func (s *Settings) knows(key string) bool {
	for _, a := range s.asked {
		if a == key {
			return true
		}
	}
	return false
}

func (s *Settings) known() string {
	text := ""
	for i, a := range s.asked {
		switch i {
		case 0:
			text = "; there are " + a
		default:
			text += ", " + a
		}
	}
	return text
}
