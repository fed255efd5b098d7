//go:build linux

package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A quick run measures every criterion and writes a complete page. It does not check whether the criteria are
// met.
func TestQuick(t *testing.T) {
	out := t.TempDir()
	p := program{root: "../..", envoy: "../../bin/envoy", out: out, seed: 1, quick: true, log: io.Discard}
	gateway := program{root: "../..", tmp: t.TempDir()}
	var err error
	p.gateway, err = gateway.build("whirlpool", "build", "./cmd/whirlpool")
	require.NoError(t, err)
	d, err := p.run()
	require.NoError(t, err)
	require.NoError(t, d.Write(out))

	measured := map[string]bool{}
	for _, c := range d.Criteria() {
		measured[c.ID] = true
		require.NotContains(t, c.Measured, "NaN", "%s, %s", c.ID, c.Workload)
	}
	for n := 1; n <= 10; n++ {
		require.True(t, measured[fmt.Sprintf("SC-%03d", n)], "SC-%03d", n)
	}
	for name, byVariant := range d.Virtual {
		for variant, o := range byVariant {
			require.True(t, o.Reconciled, "%s, %s", name, variant)
			require.Len(t, o.Served, len(o.Latency))
		}
	}
	page, err := os.ReadFile(filepath.Join(out, "criteria.md"))
	require.NoError(t, err)
	require.NotContains(t, string(page), "NaN")
	require.NotContains(t, string(page), "%!")
	for _, line := range strings.Split(string(page), "\n") {
		if !strings.HasPrefix(line, "|") {
			require.LessOrEqual(t, len([]rune(line)), 120, line)
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(page), -1) {
		require.FileExists(t, filepath.Join(out, link[1]))
	}
	charts, err := filepath.Glob(filepath.Join(out, "criteria", "*.svg"))
	require.NoError(t, err)
	require.NotEmpty(t, charts)
	for _, path := range charts {
		wellFormed(t, path)
	}
	results, err := os.ReadFile(filepath.Join(out, "criteria", "results.json"))
	require.NoError(t, err)
	require.True(t, json.Valid(results))
}

func wellFormed(t *testing.T, path string) {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	for d := xml.NewDecoder(f); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err, path)
	}
}
