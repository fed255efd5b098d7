package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a duration. In the configuration it is a text such as "1.5s", "200ms" or "1h", or a number of seconds.
type Duration time.Duration

// String returns the duration in Go's notation.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText returns the text of String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

var errDuration = errors.New(`must be a duration such as "3s", "200ms" or "1m30s", or a number of seconds`)

// DecodeValue implements strict.ValueDecoder.
func (d *Duration) DecodeValue(from any) error {
	switch v := from.(type) {
	case string:
		parsed, err := time.ParseDuration(v)
		if err != nil {
			return errDuration
		}
		*d = Duration(parsed)
		return nil
	case int64:
		return d.DecodeValue(float64(v)) // float64 is exact up to 2^53, and 2^53 s is out of range
	case float64:
		if math.Abs(v) < math.MaxInt64/float64(time.Second) { // false for NaN
			*d = Duration(v * float64(time.Second))
			return nil
		}
	}
	return errDuration
}

// Size is a number of bytes. In the configuration it is a number, or a text such as "64KiB" or "1MiB".
type Size int64

var errSize = errors.New(`must be a number of bytes, or a size such as "64KiB" or "1MiB"`)

// DecodeValue implements strict.ValueDecoder.
func (s *Size) DecodeValue(from any) error {
	switch v := from.(type) {
	case int64:
		*s = Size(v)
		return nil
	case string:
		text, unit := strings.TrimSpace(v), int64(1)
		for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
			if number, ok := strings.CutSuffix(text, suffix); ok {
				text, unit = strings.TrimSpace(number), u
			}
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n > 1<<40/unit {
			return errSize
		}
		*s = Size(n * unit)
		return nil
	}
	return errSize
}
