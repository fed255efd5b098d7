package wasmhost

import (
	"context"
	"fmt"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Probe is one instance of a module, for tools that need its fuel and memory. It is not safe for concurrent use.
type Probe struct{ in *instance }

// Configure sets the configuration of instances that are started later. It must be called only for modules from
// Compile, and not while Module.Probe runs.
func (m *Module) Configure(config map[string]any) { m.config = pairs(config) }

// Probe starts an instance and configures it. The error is a *CheckError or ErrClosed.
func (m *Module) Probe() (*Probe, error) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, ErrClosed
	}
	m.instanceCount++
	m.mu.Unlock()
	in, err := m.instantiate()
	if err != nil {
		m.instanceEnded()
		return nil, err
	}
	return &Probe{in}, nil
}

// Close closes the instance.
func (p *Probe) Close() {
	p.in.guest.Close(context.Background())
	p.in.module.instanceEnded()
}

// Score calls a scorer as Module.Score does.
func (p *Probe) Score(c core.Candidates, scores []float64) error { return p.in.callScore(c, scores) }

// Delay calls a backoff as Module.Delay does.
func (p *Probe) Delay(r *core.BackoffRequest) (float64, error) { return p.in.callBackoff(r) }

// Rule calls a judge as Module.Rule does.
func (p *Probe) Rule(r *core.JudgeRequest, e *core.Excerpt) (core.Ruling, error) {
	return p.in.callJudge(r, e)
}

// ExcerptSpec returns the parts of a response that a judge needs.
func (p *Probe) ExcerptSpec() *core.ExcerptSpec { return p.in.excerptSpec }

// Learns reports whether the module exports "observe".
func (p *Probe) Learns() bool { return p.in.observe != nil }

// Observe passes an observation to the module as Module.Observe does.
func (p *Probe) Observe(o *core.Observation) error {
	if !p.Learns() {
		return nil
	}
	return p.in.callObserve(o)
}

// SetPool passes the proxies of the pool to the instance.
func (p *Probe) SetPool(proxies []Proxy) error {
	p.in.module.pool.Store(&proxies)
	return p.in.passPool()
}

// Reserve calls the export "reserve" and returns its result unchecked.
func (p *Probe) Reserve(bytes uint32) (address uint32, err error) {
	p.in.setCallBudget(0)
	p.in.stack[0] = uint64(bytes)
	if err := p.in.invoke(p.in.reserve); err != nil {
		return 0, err
	}
	p.in.regionAddress, p.in.regionSize = uint32(p.in.stack[0]), bytes
	if p.in.regionAddress == 0 {
		p.in.regionSize = 0
	}
	return p.in.regionAddress, nil
}

// ScoreAt calls the export "score" with the addresses of records that the caller has written.
func (p *Probe) ScoreAt(request, candidates, scores, count uint32) (status int32, err error) {
	p.in.setCallBudget(int(count))
	p.in.stack = [4]uint64{uint64(request), uint64(candidates), uint64(scores), uint64(count)}
	if err := p.in.invoke(p.in.mainExport); err != nil {
		return 0, err
	}
	return int32(p.in.stack[0]), nil
}

// Write writes bytes into the memory.
func (p *Probe) Write(address uint32, bytes []byte) error {
	if !p.in.memory.Write(address, bytes) {
		return fmt.Errorf("%d bytes at %d end past the guest's memory", len(bytes), address)
	}
	return nil
}

// Read returns a copy of the bytes at an address of the memory.
func (p *Probe) Read(address, size uint32) ([]byte, error) {
	view, ok := p.in.memory.Read(address, size)
	if !ok {
		return nil, fmt.Errorf("%d bytes at %d end past the guest's memory", size, address)
	}
	return append([]byte(nil), view...), nil
}

// Fuel returns the fuel that remained after the last call. If the host first called the export "reserve" for this call,
// both calls used the same fuel. The result is negative if they used more fuel than they had.
func (p *Probe) Fuel() int64 { return p.in.fuelLeft() }

// Pages returns the present size of the memory in pages of 64 KiB.
func (p *Probe) Pages() uint32 { return p.in.memory.Size() >> 16 }

// Limits returns the limits of the module.
func (m *Module) Limits() Limits { return m.limits }
