package session

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// Options are the options in a client's user name.
type Options struct {
	Session      Request // Session.ID is "" for no session
	Region       string  // the wanted region; "" for none
	RegionStrict bool    // proxies of other regions are not used
	CityTag      float64 // core.Hash53 of the tag of the proxies in the wanted city; 0 for none
	MaxAttempts  int     // the maximum number of attempts, 1 to MaxRetries + 1; 0 for the maximum of the policy
}

// MaxRetries is the largest value of the option retry, because a retry policy has at most 10
// attempts.
const MaxRetries = 9

// option identifies an option. Several words can stand for the same option (optionWords).
type option uint8

const (
	optionSession option = iota + 1
	optionRegion
	optionCity
	optionTTL
	optionRetry
	optionStrict
)

// optionWords maps words in lower case to options. It has the words of proxy vendors, too (Bright Data, Decodo,
// Oxylabs, Thordata and others), so that their clients can keep the options in their user names.
var optionWords = map[string]option{
	"session": optionSession, "sessid": optionSession,
	"region": optionRegion, "country": optionRegion, "cc": optionRegion,
	"city": optionCity, "cityname": optionCity,
	"ttl": optionTTL, "lifetime": optionTTL, "sesstime": optionTTL, "sessionduration": optionTTL,
	"retry": optionRetry, "retries": optionRetry,
	"strict": optionStrict,
}

// cityTagPrefix, followed by the name of a city in lower case, is the tag of the proxies in this city.
const cityTagPrefix = "city-"

// OptionNames lists the options, for messages.
const OptionNames = "session-ID, region-NAME, city-NAME, ttl-10m, retry-N and strict"

// OptionError is an error in the options of a user name.
type OptionError struct{ Msg string }

func (e *OptionError) Error() string { return e.Msg }

func optionError(format string, args ...any) error { return &OptionError{fmt.Sprintf(format, args...)} }

// ParseOptions parses the options of a user name: words and their values, separated by "-", for example
// "session-abc123-region-us-ttl-10m-retry-5-strict". Words may be in upper or lower case; a value cannot contain "-".
// The option strict applies both to a session and to a region. The error is an *OptionError, which quotes the wrong
// part.
func ParseOptions(s string) (o Options, err error) {
	var seen [optionStrict + 1]bool
	isStrict := false
	for more := true; more; {
		var word, value string
		word, s, more = strings.Cut(s, "-")
		kind := optionWords[strings.ToLower(word)]
		switch {
		case kind == 0:
			return Options{}, optionError("the user name has the unknown option %q%s; the options are %s",
				shorten(word), strict.DidYouMean(word, slices.Sorted(maps.Keys(optionWords))), OptionNames)
		case seen[kind]:
			return Options{}, optionError("the user name has the option %q twice, perhaps under two names", word)
		}
		seen[kind] = true
		if kind == optionStrict {
			isStrict = true
			continue
		}
		if value, s, more = strings.Cut(s, "-"); value == "" {
			return Options{}, optionError("the option %q in the user name has no value", word)
		}
		if err := o.setOption(kind, value); err != nil {
			return Options{}, optionError("the option %q in the user name: %v", word, err)
		}
	}
	switch {
	case seen[optionTTL] && !seen[optionSession]:
		return Options{}, optionError("the user name has a ttl without a session")
	case isStrict && !seen[optionSession] && !seen[optionRegion]:
		return Options{}, optionError("the user name has the option strict without a session or a region")
	case seen[optionSession]:
		if !seen[optionTTL] {
			o.Session.TTL = DefaultTTL
		}
		if err := o.Session.Check(); err != nil {
			return Options{}, optionError("the user name: %v", err)
		}
	}
	o.Session.Strict, o.RegionStrict = isStrict && seen[optionSession], isStrict && seen[optionRegion]
	return o, nil
}

func (o *Options) setOption(kind option, value string) (err error) {
	switch kind {
	case optionSession:
		o.Session.ID = value
	case optionRegion:
		o.Region = value
	case optionCity:
		o.CityTag = core.Hash53(cityTagPrefix + strings.ToLower(value))
	case optionTTL:
		o.Session.TTL, err = parseTTL(value)
	case optionRetry:
		n, bad := strconv.ParseUint(value, 10, 8)
		if bad != nil || n > MaxRetries {
			return fmt.Errorf("must be a number from 0 to %d", MaxRetries)
		}
		o.MaxAttempts = int(n) + 1
	}
	return err
}
