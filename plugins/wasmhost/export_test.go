package wasmhost

import "time"

// SetClock replaces the clock with which the host measures calls: the time, and the CPU time of the calling
// thread.
func (h *Host) SetClock(now func() time.Time, cpu func() time.Duration) { h.clock = clock{now, cpu} }

// ThreadTime returns a clock of the CPU time of the calling thread; see systemClock.
func ThreadTime() func() time.Duration { return threadTime() }

// The limits of stacks, in bytes.
const (
	MaxStack   = maxStack
	KeptStack  = maxKeptStack
	KeptStacks = maxKeptStacks
)

// Stacks returns the sizes of the stacks of the module's idle instances, in bytes.
func (m *Module) Stacks() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sizes []int
	for _, in := range m.idle {
		for _, e := range in.entries {
			sizes = append(sizes, e.stackSize())
		}
	}
	return sizes
}
