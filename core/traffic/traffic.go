// Package traffic counts the bytes, the attempts and the cost of proxies, vendors and users.
package traffic

import (
	"math"
	"sync/atomic"
)

// Meter counts the bytes and attempts of a proxy, vendor or user, and their cost. It is safe for concurrent use. The
// zero value is ready for use.
type Meter struct {
	up, down, attempts atomic.Int64
	cost               atomic.Uint64 // float64 bits
}

// Total is the content of a Meter. The cost is in the currency of the configured prices.
type Total struct {
	Up       int64   `json:"up,omitempty"`   // bytes sent to proxies, with the overhead of TLS and HTTP
	Down     int64   `json:"down,omitempty"` // bytes received from proxies
	Attempts int64   `json:"attempts,omitempty"`
	Cost     float64 `json:"cost,omitempty"`
}

// Add returns the sum of two totals.
func (t Total) Add(o Total) Total {
	return Total{t.Up + o.Up, t.Down + o.Down, t.Attempts + o.Attempts, t.Cost + o.Cost}
}

// Bytes returns the sum of Up and Down.
func (t Total) Bytes() int64 { return t.Up + t.Down }

// Total returns the content of m.
func (m *Meter) Total() Total {
	return Total{m.up.Load(), m.down.Load(), m.attempts.Load(), math.Float64frombits(m.cost.Load())}
}

// Bytes returns the number of bytes that m has counted, in both directions.
func (m *Meter) Bytes() int64 { return m.up.Load() + m.down.Load() }

// Add adds t to the content of m.
func (m *Meter) Add(t Total) {
	m.up.Add(t.Up)
	m.down.Add(t.Down)
	m.attempts.Add(t.Attempts)
	m.addCost(t.Cost)
}

func (m *Meter) addCost(cost float64) {
	if cost == 0 {
		return
	}
	for {
		old := m.cost.Load()
		if m.cost.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+cost)) {
			return
		}
	}
}

// Price is the price of a proxy. With the zero value, the proxy costs nothing.
type Price struct {
	Request float64 `json:"request,omitempty"` // for each attempt that reaches the proxy
	GB      float64 `json:"gb,omitempty"`      // for 1e9 bytes, in both directions together
}

// Meters holds the meters that count one attempt, and the price of its proxy. The zero value counts nothing. Each
// connection gets a copy.
type Meters struct {
	list  [maxMeters]*Meter
	price Price
}

// maxMeters is the maximum number of meters of an attempt: one for the proxy, one for its vendor, one for the pair of
// the proxy and a host, and one for the user.
const maxMeters = 4

// NewMeters returns Meters without a meter, for a proxy with the given price.
func NewMeters(p Price) Meters { return Meters{price: p} }

// AddMeter adds a meter to m, unless the meter is nil or m already has maxMeters meters.
func (m *Meters) AddMeter(meter *Meter) {
	if meter == nil {
		return
	}
	for i := range m.list {
		if m.list[i] == nil {
			m.list[i] = meter
			return
		}
	}
}

// CountBytes counts bytes sent to the proxy (up) and received from it (down).
func (m *Meters) CountBytes(up, down int) {
	cost := 0.0
	if m.price.GB != 0 {
		cost = float64(up+down) * m.price.GB / 1e9
	}
	for i := range m.list { // without a copy of the list
		meter := m.list[i]
		if meter == nil {
			return
		}
		if up > 0 {
			meter.up.Add(int64(up))
		}
		if down > 0 {
			meter.down.Add(int64(down))
		}
		meter.addCost(cost)
	}
}

// CountAttempt counts an attempt that has reached the proxy.
func (m *Meters) CountAttempt() {
	for i := range m.list {
		meter := m.list[i]
		if meter == nil {
			return
		}
		meter.attempts.Add(1)
		meter.addCost(m.price.Request)
	}
}
