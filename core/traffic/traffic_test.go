package traffic_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/traffic"
)

func TestBytesAndCostsOfAllMeters(t *testing.T) {
	var proxy, user traffic.Meter
	m := traffic.NewMeters(traffic.Price{Request: 0.25, GB: 8})
	m.AddMeter(&proxy)
	m.AddMeter(nil)
	m.AddMeter(&user)
	copied := m
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				copied.CountBytes(1000, 249_000)
			}
		})
	}
	all.Wait()
	m.CountAttempt()
	want := traffic.Total{Up: 4_000_000, Down: 996_000_000, Attempts: 1, Cost: 8.25}
	for _, meter := range []*traffic.Meter{&proxy, &user} {
		got := meter.Total()
		require.InDelta(t, want.Cost, got.Cost, 1e-9)
		got.Cost = want.Cost
		require.Equal(t, want, got)
		require.Equal(t, want.Bytes(), meter.Bytes())
	}
}

func TestNoMeters(t *testing.T) {
	var m traffic.Meters
	m.CountBytes(1, 1)
	m.CountAttempt()
	require.Zero(t, testing.AllocsPerRun(100, func() { m.CountBytes(1, 1) }))
}

func TestAnEarlierTotalIsAdded(t *testing.T) {
	var m traffic.Meter
	m.Add(traffic.Total{Up: 1, Down: 2, Attempts: 3, Cost: 0.5})
	m.Add(traffic.Total{Up: 1, Cost: 0.5})
	require.Equal(t, traffic.Total{Up: 2, Down: 2, Attempts: 3, Cost: 1}, m.Total())
}
