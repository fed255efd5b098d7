package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/wasm-examples/internal/exampletest"
)

func ruling(t *testing.T, p *exampletest.Plugin, now, status float64, proxy, host string) core.Ruling {
	return p.Rule(core.JudgeRequest{Now: now, Status: status, IDHash: core.Hash53(proxy), HostHash: core.Hash53(host)},
		core.Excerpt{})
}

// A host bans a proxy for three hours. The proxy is used again as soon as its rest has ended.
func TestRestsGrow(t *testing.T) {
	p := exampletest.Judge(t, exampletest.Build(t, "."), nil)
	var out strings.Builder
	now := 1000.0
	for now < 1000+3*3600 {
		r := ruling(t, p, now, 403, "a", "h")
		require.Equal(t, core.RulingBanned, r.Kind)
		fmt.Fprintf(&out, "after %6.0f s: rest for %v\n", now-1000, r.BanTime)
		require.Equal(t, r, ruling(t, p, now+1, 429, "a", "h"), "a request that was under way")
		require.Equal(t, time.Minute, ruling(t, p, now, 403, "a", fmt.Sprint("other", now)).BanTime, "another host")
		now += r.BanTime.Seconds()
	}
	require.Equal(t, core.Ruling{}, ruling(t, p, now, 200, "a", "h"))
	fmt.Fprintf(&out, "after %6.0f s: served\n", now-1000)
	require.Equal(t, time.Minute, ruling(t, p, now+1, 403, "a", "h").BanTime, "a new series")
	exampletest.Output(t, ".", out.String())
}

func TestSettings(t *testing.T) {
	w := exampletest.Build(t, ".")
	p := exampletest.Judge(t, w, map[string]any{"first": 5, "most": 8})
	require.Equal(t, 5*time.Second, ruling(t, p, 1, 429, "a", "h").BanTime)
	require.Equal(t, 8*time.Second, ruling(t, p, 6, 429, "a", "h").BanTime)
	require.Contains(t, exampletest.Refusal(t, w, map[string]any{"first": 0}), "first")
}
