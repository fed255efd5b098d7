package evidence

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheExplanation(t *testing.T) {
	word := func(c uint8) string { return map[uint8]string{1: "closed", 2: "refused"}[c] }
	why := Report{Failures: 5, OwnFailures: 1, OwnCauses: []CauseCount{{2, 1}}, Targets: []TargetReport{
		{Name: "a.test:80", Failures: 3, Attempts: 4, Causes: []CauseCount{{1, 3}}, OtherFailures: 1,
			OtherAttempts: 20},
		{Name: "b.test:80", Failures: 1, Attempts: 1, OtherAttempts: 7},
	}}
	require.Equal(t, "3 of 4 attempts failed at a.test:80 (closed 3), where the other proxies failed 1 of 20; "+
		"1 of 1 attempts failed at b.test:80, where the other proxies failed 0 of 7; "+
		"1 failures that no target causes (refused 1)", why.Text(word))
	why.Targets = append(why.Targets, why.Targets...)
	require.Contains(t, why.Text(word), "and failures at 1 more targets")
	require.Empty(t, (&Report{}).Text(word))

	var c causes
	for range 254 {
		c.add(2)
	}
	why = Report{Failures: 254, OwnFailures: 254, OwnCauses: c.list()}
	require.Contains(t, why.Text(word), "(refused 254)")
	for range 1000 {
		c.add(2)
	}
	why.OwnCauses = c.list()
	require.Contains(t, why.Text(word), "(refused 255 or more)", "the count is saturated")
}
