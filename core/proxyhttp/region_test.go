package proxyhttp

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseRegion(t *testing.T) {
	for value, want := range map[string]struct {
		region string
		strict bool
		fault  string // part of the error; "" for none
	}{
		"":                    {},
		"US":                  {region: "US"},
		" US-EAST\t":          {region: "US-EAST"},
		"US;strict":           {region: "US", strict: true},
		"US ;\t STRICT ":      {region: "US", strict: true},
		"US;strict;strict":    {region: "US", strict: true},
		"US;loose":            {fault: `"loose"`},
		"US;strict;only":      {fault: `"only"`},
		"US;":                 {fault: `""`},
		"US;strict=1":         {fault: `"strict=1"`},
		";strict":             {fault: "names no region"},
		"US;x\r\nEvil: 1\x00": {fault: `"x\r\nEvil: 1\x00"`},
	} {
		region, strict, err := ParseRegion(value)
		if want.fault != "" {
			require.ErrorContains(t, err, want.fault, "%q", value)
			continue
		}
		require.NoError(t, err, "%q", value)
		require.Equal(t, want.region, region, "%q", value)
		require.Equal(t, want.strict, strict, "%q", value)
	}
}

// FuzzParseRegion: an accepted value has a region without white space around it and without
// parameters in it.
func FuzzParseRegion(f *testing.F) {
	f.Add("US;strict")
	f.Add(" a b ; Strict;")
	f.Fuzz(func(t *testing.T, value string) {
		region, strict, err := ParseRegion(value)
		if err != nil {
			require.Empty(t, region)
			return
		}
		require.Equal(t, strings.Trim(region, " \t"), region)
		require.NotContains(t, region, ";")
		require.Equal(t, strings.Contains(value, ";"), strict)
		require.False(t, strict && region == "")
	})
}
