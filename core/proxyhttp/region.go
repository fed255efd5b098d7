package proxyhttp

import (
	"fmt"
	"strings"
)

// ParseRegion parses an X-Whirlpool-Region field. The field has the name of a region, optionally followed by a
// semicolon and the word "strict" in any case (executor.Request.RegionStrict). White space around the name and the
// word is ignored. An empty value means no region. If the field has an unknown parameter, the error quotes it.
func ParseRegion(value string) (region string, strict bool, err error) {
	region, rest, more := strings.Cut(value, ";")
	region = strings.Trim(region, " \t")
	for more {
		var word string
		word, rest, more = strings.Cut(rest, ";")
		if word = strings.Trim(word, " \t"); !strings.EqualFold(word, "strict") {
			return "", false, fmt.Errorf("X-Whirlpool-Region has the parameter %q; the only parameter is strict", word)
		}
		strict = true
	}
	if strict && region == "" {
		return "", false, fmt.Errorf("X-Whirlpool-Region is strict, but names no region")
	}
	return region, strict, nil
}
