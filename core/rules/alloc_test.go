//go:build !race

package rules

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Matching allocates nothing.
func TestAllocOfMatching(t *testing.T) {
	then := Then{OtherProxy: true}
	s := compile(t,
		Rule{When: When{Hosts: []string{"*.other.test"}, Statuses: []string{"403"}}, Then: then},
		Rule{When: When{Headers: map[string]string{"Server": "*-edge-*"}, Body: "robot"}, Then: then},
		Rule{When: When{Body: "captcha"}, Then: then})
	e := &core.Excerpt{Body: make([]byte, core.MaxExcerptBody), Fields: []core.ExcerptField{
		{Name: "server", Value: []byte("a rather long value that names some -edge- server of the target")},
	}}
	copy(e.Body[8000:], "captcha")
	a := &Attempt{Host: "www.shop.test", Method: "GET", Status: 403}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if s.Wants(a).Body == 0 || s.Match(a, e) == nil {
			t.Fatal("no rule holds")
		}
	}))
}
