package simulate

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRecorder(t *testing.T) {
	r := NewRecorder(1800000000.5)
	_, err := r.Trace()
	require.ErrorContains(t, err, "no proxy has been used")
	a := ProxyState{ID: "a", Region: "EU", Weight: 2, Cost: 3, Metadata: map[string]string{"plan": "gold"}, Uses: 1000,
		Samples: 100, SuccessRate: 0.9, AvgLatency: 0.1}
	b := ProxyState{ID: "b", Weight: 1, Metadata: map[string]string{}, SuccessRate: 0.5}
	r.Record(0, []ProxyState{a, b})
	_, err = r.Trace()
	require.ErrorContains(t, err, "too short")
	a.Uses += 50
	r.Record(5, []ProxyState{a, b}) // only the uses of a have increased
	a.Uses, a.SuccessRate = a.Uses+30, 0.8
	b.Uses, b.Samples, b.SuccessRate = 20, 20, 0
	r.Record(10, []ProxyState{a, b})
	got, err := r.Trace()
	require.NoError(t, err)
	require.Equal(t, &Trace{Duration: 10, Rate: 10, Hosts: 8, Start: 1800000000, Proxies: []Proxy{
		{ID: "a", Region: "EU", Weight: 2, Cost: 3, Metadata: map[string]string{"plan": "gold"},
			States: []State{{0, 0.9, 0.1, 0}, {10, 0.8, 0.1, 0}}},
		{ID: "b", Weight: 1, States: []State{{0, 0, defaultLatency, 0}}},
	}}, got)
	var file bytes.Buffer
	require.NoError(t, got.Write(&file))
	again, err := Read(&file)
	require.NoError(t, err)
	require.Equal(t, got, again)
}
