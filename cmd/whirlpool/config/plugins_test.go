package config

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/plugins/source"
)

func TestSourcesOfPlugins(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	c, err := load(t, `
[plugins.web]
url = "https://a.test/m.wasm?token=hunter2"
sha256 = "`+sum+`"
kind = "scorer"
fuel = 5000000
memory = "32MiB"
timeout = "50ms"
[plugins.artifact]
url = "oci://r.test/team/mine@sha256:`+sum+`"
[plugins.lab]
url = "http://a.test/m.wasm"
insecure = true
[plugins.file]
path = "m.wasm"
sha256 = "`+sum+`"
`, nil)
	require.NoError(t, err)
	specs := c.Modules()
	require.Equal(t, plugins.Spec{
		Source: source.Source{URL: "https://a.test/m.wasm?token=hunter2", SHA256: sum}, Kind: "scorer",
		Limits: plugins.Limits{Fuel: 5_000_000, MemoryBytes: 32 << 20, CallTimeout: 50 * time.Millisecond},
	}, specs["web"])
	require.True(t, specs["artifact"].Source.Pinned())
	require.True(t, specs["lab"].Source.Insecure)
	require.Equal(t, sum, specs["file"].SHA256)
	require.Empty(t, specs["file"].Source)
	require.Len(t, c.Files(), 1, "m.wasm is watched")
	shown, err := json.Marshal(c)
	require.NoError(t, err)
	require.Contains(t, string(shown), `"url":"https://a.test/m.wasm?***"`)
	require.NotContains(t, string(shown), "hunter2")
}

func TestFaultsOfSources(t *testing.T) {
	for text, says := range map[string]string{
		"":                                                 "plugins.x.path: is missing",
		"path = \"a\"\nurl = \"https://a.b\"":              "plugins.x.url: cannot be set together with path",
		"path = \"a\"\ninsecure = true":                    "plugins.x: public_key and insecure are for a url",
		"url = \"https://hunter2.test/m\"":                 "plugins.x.url: nothing verifies the module",
		"url = \"http://hunter2.test/m\"":                  "plugins.x.url: http:// can be read and changed",
		"url = \"ftp://hunter2.test/m\"":                   "plugins.x.url: must begin with https://",
		"url = 5":                                          "plugins.x.url: must be",
		"url = \"https://a.b\"\nsha256 = \"hunter\"":       "plugins.x.sha256: must have 64",
		"url = \"https://a.b\"\npublic_key = \"hunter2\"":  "plugins.x.public_key: must be a public key",
		"path = \"a\"\nfuel = 5":                           "plugins.x.fuel = 5: must be 10000 to",
		"path = \"a\"\nmemory = \"1KiB\"":                  "plugins.x.memory = \"1KiB\": must be 64KiB to",
		"path = \"a\"\ntimeout = \"1h\"":                   "plugins.x.timeout = \"1h\": must be 1ms to",
		"url = \"oci://hunter2.test\"\ninsecure = true":    "plugins.x.url: must be oci://REGISTRY",
		"url = \"https://u:hunter2@a.b\"\ninsecure = true": "plugins.x.url: must have a host",
	} {
		_, err := load(t, "[plugins.x]\n"+text+"\n", nil)
		require.ErrorContains(t, err, says, text)
		require.NotContains(t, err.Error(), "hunter2", text)
	}
}
