package plugins

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A plugin is quarantined if most of its calls find no instance for two seconds, but not if this happens only
// for a moment.
func TestBusyFaults(t *testing.T) {
	for name, c := range map[string]struct {
		busy func(at time.Duration) bool // whether a call at this time finds no instance; calls begin every 10 ms
		want bool
	}{
		"all":                      {func(time.Duration) bool { return true }, true},
		"every second call":        {func(at time.Duration) bool { return at/(10*time.Millisecond)%2 == 0 }, true},
		"for a second":             {func(at time.Duration) bool { return at < time.Second }, false},
		"a second of every three":  {func(at time.Duration) bool { return at%(3*time.Second) < time.Second }, false},
		"every third call":         {func(at time.Duration) bool { return at/(10*time.Millisecond)%3 == 0 }, false},
		"from the fifth second on": {func(at time.Duration) bool { return at > 5*time.Second }, true},
		"one in the first, one in the last second": {func(at time.Duration) bool {
			return at == 0 ||
				at == 9*time.Second
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var h faultWindow
			begin := time.Unix(1.7e9, 0)
			quarantined, n := false, uint64(0)
			for at := time.Duration(0); at < 10*time.Second; at += 10 * time.Millisecond {
				if n++; c.busy(at) {
					quarantined = quarantined || h.addBusyFault(n, begin.Add(at))
				}
			}
			require.Equal(t, c.want, quarantined)
		})
	}
	var h faultWindow
	for n := range uint64(1000) { // the machine stalls for a second, with many clients
		require.False(t, h.addBusyFault(n+1, time.UnixMilli(int64(n))))
	}
}
