package wasmhost

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ErrBusy reports that a call found no free instance or got too little CPU time. The module is not the cause. A Fault
// wraps ErrBusy.
var ErrBusy = errors.New("every instance of the plugin was at work")

// instances returns the maximum number of instances.
func (m *Module) instances() int {
	if m.desc.Learns {
		return 1
	}
	return max(1, m.limits.Instances)
}

// acquire returns an instance for one call. If no instance is idle and the limit permits, it starts another instance
// in the background. It waits until an instance is idle, but at most for the given time.
func (m *Module) acquire(wait time.Duration) (*instance, error) {
	if !m.ready.Load() {
		return nil, ErrNotReady
	}
	m.mu.Lock()
	in, err := m.take()
	if in != nil || err != nil {
		m.mu.Unlock()
		return in, err
	}
	// The call has to wait, so the cost of the following code matters less.
	begun := time.Now()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	again := make(chan error, 1)
	for {
		m.waiting = append(m.waiting, again)
		m.start()
		m.mu.Unlock()
		select {
		case err = <-again:
		case <-timer.C:
			m.mu.Lock()
			if i := slices.Index(m.waiting, again); i >= 0 {
				m.waiting = slices.Delete(m.waiting, i, i+1)
			} else { // the call was woken when its wait ended: wake another call instead
				m.wake(1, <-again)
			}
			m.mu.Unlock()
			return nil, &Fault{Reason: ReasonBusy, Err: ErrBusy}
		}
		if err != nil {
			return nil, &Fault{Reason: ReasonTrap, Err: err}
		}
		m.mu.Lock()
		in, err = m.take()
		if in != nil || err != nil {
			m.mu.Unlock()
			return in, err
		}
		if time.Since(begun) >= wait {
			m.mu.Unlock()
			return nil, &Fault{Reason: ReasonBusy, Err: ErrBusy}
		}
	}
}

// take removes the instance that became idle last from m.free, and returns it. It returns nil if no instance is idle.
// The caller holds mu.
func (m *Module) take() (*instance, error) {
	if m.closed {
		return nil, ErrClosed
	}
	n := len(m.free)
	if n == 0 {
		return nil, nil
	}
	in := m.free[n-1]
	m.free = m.free[:n-1]
	if in.large {
		m.stacks -= in.grown()
	}
	return in, nil
}

// wake ends the wait of the n calls of acquire that have waited longest. These calls return err; if err is nil, they
// call take again. No instance is reserved for a woken call: until its goroutine runs, another call may use the
// instance. The caller holds mu.
func (m *Module) wake(n int, err error) {
	n = min(n, len(m.waiting))
	for _, w := range m.waiting[:n] {
		w <- err
	}
	m.waiting = m.waiting[n:]
}

// start starts an instance if a call waits, the limit permits it, and no other instance is being
// started. The caller holds mu.
func (m *Module) start() {
	if m.starting || m.closed || len(m.waiting) == 0 || m.live >= m.instances() {
		return
	}
	m.starting = true
	m.live++
	go func() {
		in, err := m.instantiate()
		m.mu.Lock()
		m.starting = false
		if err != nil {
			m.wake(1, err)
			m.mu.Unlock()
			m.ended()
			return
		}
		m.mu.Unlock()
		m.release(in, nil)
	}()
}

// release takes an instance back after a call that ended with err. At most m.keep idle instances are kept,
// because each takes memory. An instance is closed if its call trapped or was ended by the host, because its memory may
// be inconsistent. After a wrong result the instance is kept, so that a module that learns does not lose the data that
// it has learned.
func (m *Module) release(in *instance, err error) {
	m.mu.Lock()
	spare := len(m.free) >= m.keep && len(m.waiting) == 0
	if !m.closed && !spare && (err == nil || in.budget.err == nil && !spoiled(err)) {
		if in.large {
			m.keepStacks(in)
		}
		m.free = append(m.free, in)
		m.wake(1, nil)
		m.start()
		m.mu.Unlock()
		return
	}
	m.mu.Unlock()
	in.guest.Close(context.Background())
	m.ended()
}

func spoiled(err error) bool {
	var f *Fault
	return !errors.As(err, &f) || f.Reason == ReasonTrap || f.Reason == ReasonMemory
}

// keepStacks is called when an instance becomes idle. It keeps the instance's large stacks if they fit into
// keptStacks, and frees them otherwise. The caller holds mu.
func (m *Module) keepStacks(in *instance) {
	if size := in.grown(); m.stacks+size <= keptStacks {
		m.stacks += size
		return
	}
	in.shrink()
}

// ended is called when an instance has been closed. If it was the last instance of a closed module, ended
// frees the module.
func (m *Module) ended() {
	m.mu.Lock()
	m.live--
	last := m.closed && m.live == 0
	m.start()
	m.mu.Unlock()
	if last {
		m.destroy()
	}
}

// Instances returns the number of instances, including instances that are being started.
func (m *Module) Instances() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live
}
