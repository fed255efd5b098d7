package simulate

import (
	"errors"
	"math"
)

// ProxyState is the state of a proxy at one time, as GET /api/v1/proxies returns it.
type ProxyState struct {
	ID          string            `json:"id"`
	Region      string            `json:"region"`
	Weight      float64           `json:"weight"`
	Cost        float64           `json:"cost"`
	Metadata    map[string]string `json:"metadata"`
	Uses        float64           `json:"uses"`
	Samples     int               `json:"samples"`
	SuccessRate float64           `json:"success_rate"`
	AvgLatency  float64           `json:"avg_latency"` // s
}

// Recorder makes a trace of a running gateway. The caller reads the proxies of the gateway at intervals, and passes
// them to Record. The trace has the success rate and the latency of each proxy's last 100 attempts. Proxies without
// attempts are left out. In the trace, the first state of a proxy begins at 0.
type Recorder struct {
	trace    Trace
	index    map[string]int
	uses     map[string]float64 // uses of each proxy at its first Record
	attempts float64            // attempts since the first Record, of all proxies
	lastTime float64            // time of the last Record, s
}

// defaultLatency is the latency of a proxy without a success, in seconds.
const defaultLatency = 1

// NewRecorder returns a recorder of a trace that begins at start, in seconds since the Unix epoch.
func NewRecorder(start float64) *Recorder {
	return &Recorder{
		trace: Trace{Hosts: defaultHosts, Start: math.Floor(start)}, index: map[string]int{},
		uses: map[string]float64{},
	}
}

// Record records the state of the proxies, at a time in seconds since the beginning of the trace. The time must not
// decrease from call to call.
func (r *Recorder) Record(at float64, proxies []ProxyState) {
	r.lastTime, r.attempts = at, 0
	for _, s := range proxies {
		if _, known := r.uses[s.ID]; !known {
			r.uses[s.ID] = s.Uses
		}
		r.attempts += s.Uses - r.uses[s.ID]
		if s.Samples == 0 {
			continue
		}
		state := State{At: at, Success: s.SuccessRate, Latency: s.AvgLatency}
		if state.Latency <= 0 {
			state.Latency = defaultLatency
		}
		i, known := r.index[s.ID]
		if !known {
			r.index[s.ID] = len(r.trace.Proxies)
			state.At = 0
			p := Proxy{ID: s.ID, Region: s.Region, Weight: s.Weight, Cost: s.Cost, States: []State{state}}
			if len(s.Metadata) > 0 {
				p.Metadata = s.Metadata
			}
			r.trace.Proxies = append(r.trace.Proxies, p)
			continue
		}
		p := &r.trace.Proxies[i]
		if before := p.States[len(p.States)-1]; before.Success != state.Success || before.Latency != state.Latency {
			p.States = append(p.States, state)
		}
	}
}

// Trace returns the trace until the last Record. Its rate is the mean rate of attempts.
func (r *Recorder) Trace() (*Trace, error) {
	if len(r.trace.Proxies) == 0 {
		return nil, errors.New("no proxy has been used yet: there is nothing to record")
	}
	t := r.trace
	t.Duration, t.Rate = r.lastTime, 1
	if t.Duration <= 0 {
		return nil, errors.New("the recording is too short: it needs at least two readings")
	}
	if r.attempts > 0 {
		t.Rate = r.attempts / t.Duration
	}
	return &t, t.check()
}
