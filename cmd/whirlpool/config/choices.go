package config

import (
	"regexp"

	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// permittedWords maps a key of the configuration to its permitted words, if the value of the key must be one of a few
// words. In a key of this map, * stands for an index of a list or the name of a plugin.
var permittedWords = map[string][]string{
	"breaker.blame":             {BlameEvidence, BlameLiteral},
	"log.level":                 LogLevels,
	"log.format":                {"text", "json"},
	"log.access":                {"off", "errors", "all"},
	"log.access_format":         {accesslog.JSON, accesslog.Combined},
	"egress.default":            {egress.DefaultAllow, egress.DefaultDeny},
	"gateway.override":          overrideNames,
	"gateway.users[*].override": overrideNames,
	"gateway.users[*].priority": {"high", "normal", "low"},
	"api.keys[*].role":          {"read", "admin"},
	"rules[*].preset":           {"ban_like"},
	"rules[*].then.blame":       {"proxy", "target", "nobody"},
	"plugins.*.kind":            {"scorer", "backoff", "judge"},
	"pool.files[*].scheme":      upstream.SchemeNames(),
	"pool.urls[*].scheme":       upstream.SchemeNames(),
}

// LogLevels are the values of log.level.
var LogLevels = []string{"debug", "info", "warn", "error"}

var overrideNames = []string{"any", "capped", "none"}

var (
	indexInKey  = regexp.MustCompile(`\[\d+\]`)
	pluginInKey = regexp.MustCompile(`^plugins\.[^.]+\.`)
)

// similarChoice returns "; did you mean X?" if value is similar to the permitted word X of the key. Otherwise it
// returns "".
func similarChoice(key string, value any) string {
	word, ok := value.(string)
	if !ok {
		return ""
	}
	key = pluginInKey.ReplaceAllString(indexInKey.ReplaceAllString(key, "[*]"), "plugins.*.")
	return strict.DidYouMean(word, permittedWords[key])
}
