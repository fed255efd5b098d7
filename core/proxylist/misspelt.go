package proxylist

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// misspeltReason is the reason (Warning.Reason) of the warnings about misspelt options.
const misspeltReason = "an option is not known, so it becomes metadata; its name is similar to the name of an option"

// MetadataWarnings returns a warning for each name of metadata that is probably a misspelt option, such as
// max_in_flght.
func MetadataWarnings(metadata map[string]string) (warnings []string) {
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		if option := similarOption(name); option != "" {
			warnings = append(warnings, fmt.Sprintf("the option %.40q is not known, so it becomes metadata; did you "+
				"mean %s?", name, option))
		}
	}
	return warnings
}

// optionNames returns the names of all options of a line.
func optionNames() []string {
	names := append(Columns(), "country", "ca_file", "insecure", "cert", "key")
	return slices.DeleteFunc(names, func(name string) bool { return name == columnMetadata })
}

// minSimilarName is the minimum length of an option that similarOption compares by edit distance. Shorter options are
// too similar to usual names of metadata: ip to id, date to rate.
const minSimilarName = 5

// similarOption returns the option that an unknown name probably stands for; "" for none, or if the name is an option.
func similarOption(name string) string {
	options := optionNames()
	if slices.Contains(options, name) {
		return ""
	}
	plain := plainName(name)
	byPlainName, long := map[string]string{}, []string{}
	for _, option := range options {
		p := plainName(option)
		if p == plain || p+"s" == plain || p == plain+"s" {
			return option
		}
		if byPlainName[p] = option; len(p) >= minSimilarName {
			long = append(long, p)
		}
	}
	closest := strict.Closest(plain, long)
	if difference := len(closest) - len(plain); max(difference, -difference) > max(1, len(closest)/5) {
		return "" // one name is a part of the other, such as secure and insecure
	}
	return byPlainName[closest]
}

// plainName returns a name in lower case and without the signs _ - . and spaces.
func plainName(name string) string { return signRemover.Replace(strings.ToLower(name)) }
