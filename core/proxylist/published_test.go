package proxylist

import (
	_ "embed"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// published has lists as vendors export them and as they are published, with other addresses and passwords. After the
// name of a list and the list there are the number of entries that give no proxy, and the proxies: each as a URL, with
// its region behind it.
//
//go:embed testdata/published.txt
var published string

func TestPublishedFile(t *testing.T) {
	sections := strings.Split("\n"+published, "\n=== ")[1:]
	require.Greater(t, len(sections), 60)
	for _, section := range sections {
		name, rest, _ := strings.Cut(section, "\n")
		list, rest, found := strings.Cut(rest, "\n--- ")
		require.True(t, found, name)
		wantLeftOut, want, _ := strings.Cut(rest, " left out\n")
		t.Run(name, func(t *testing.T) {
			for _, text := range []string{list, list + "\n", strings.ReplaceAll(list, "\n", "\r\n")} {
				var read EntryCounts
				specs, warnings, err := Parse(strings.NewReader(text), Options{Counts: &read})
				require.NoError(t, err)
				got := make([]string, len(specs))
				for i := range specs {
					region := specs[i].Region
					specs[i].Region = ""
					got[i] = strings.TrimSpace(FormatLine(&specs[i]) + " " + region)
				}
				require.Equal(t, strings.TrimSpace(want), strings.Join(got, "\n"), "%v", warnings)
				leftOut := 0
				for _, n := range read.Skipped {
					leftOut += n
				}
				require.Equal(t, wantLeftOut, fmt.Sprint(leftOut), "%v", warnings)
				for _, w := range warnings {
					require.NotContains(t, w.Msg, "secret")
				}
			}
		})
	}
}
