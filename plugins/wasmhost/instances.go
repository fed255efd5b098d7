package wasmhost

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ErrBusy reports that a call found no idle instance, or got too little CPU time. The module is not the cause.
var ErrBusy = errors.New("the call found no idle instance of the plugin, or got too little CPU time")

// instances returns the maximum number of instances of the module.
func (m *Module) instances() int {
	if m.desc.Learns {
		return 1
	}
	return max(1, m.limits.Instances)
}

// acquire returns an idle instance for one call. If no instance is idle, it waits for one, at most the given time. If
// the limit permits another instance, acquire starts it in the background.
func (m *Module) acquire(wait time.Duration) (*instance, error) {
	if !m.ready.Load() {
		return nil, ErrNotReady
	}
	m.mu.Lock()
	in, err := m.takeIdle()
	if in != nil || err != nil {
		m.mu.Unlock()
		return in, err
	}
	// The call has to wait, so the cost of the following code matters less.
	start := time.Now()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	wake := make(chan error, 1)
	for {
		m.waitingCalls = append(m.waitingCalls, wake)
		m.startInstance()
		m.mu.Unlock()
		select {
		case err = <-wake:
		case <-timer.C:
			m.mu.Lock()
			if i := slices.Index(m.waitingCalls, wake); i >= 0 {
				m.waitingCalls = slices.Delete(m.waitingCalls, i, i+1)
			} else { // the call was woken when its wait ended: wake another call instead
				m.wakeCalls(1, <-wake)
			}
			m.mu.Unlock()
			return nil, &Fault{Reason: ReasonBusy, Err: ErrBusy}
		}
		if err != nil {
			return nil, &Fault{Reason: ReasonTrap, Err: err}
		}
		m.mu.Lock()
		in, err = m.takeIdle()
		if in != nil || err != nil {
			m.mu.Unlock()
			return in, err
		}
		if time.Since(start) >= wait {
			m.mu.Unlock()
			return nil, &Fault{Reason: ReasonBusy, Err: ErrBusy}
		}
	}
}

// takeIdle removes the instance that became idle last from m.idle, and returns it. It returns nil if no instance is
// idle. The caller holds mu.
func (m *Module) takeIdle() (*instance, error) {
	if m.closed {
		return nil, ErrClosed
	}
	n := len(m.idle)
	if n == 0 {
		return nil, nil
	}
	in := m.idle[n-1]
	m.idle = m.idle[:n-1]
	if in.hasLargeStack {
		m.idleStackBytes -= in.largeStackBytes()
	}
	return in, nil
}

// wakeCalls wakes the n calls of acquire that have waited longest. With an error, these calls return it. Without one,
// they call takeIdle again, which finds no instance if another call was faster. The caller holds mu.
func (m *Module) wakeCalls(n int, err error) {
	n = min(n, len(m.waitingCalls))
	for _, w := range m.waitingCalls[:n] {
		w <- err
	}
	m.waitingCalls = m.waitingCalls[n:]
}

// startInstance starts an instance if a call waits, the limit permits another instance, and none is being started. The
// caller holds mu.
func (m *Module) startInstance() {
	if m.isStarting || m.closed || len(m.waitingCalls) == 0 || m.instanceCount >= m.instances() {
		return
	}
	m.isStarting = true
	m.instanceCount++
	go func() {
		in, err := m.instantiate()
		m.mu.Lock()
		m.isStarting = false
		if err != nil {
			m.wakeCalls(1, err)
			m.mu.Unlock()
			m.instanceEnded()
			return
		}
		m.mu.Unlock()
		m.release(in, nil)
	}()
}

// release takes an instance back after a call that ended with err. After a trap, or if the host ended the call, it
// closes the instance, because the memory may be inconsistent. It does not close an instance for a wrong result: a
// module that learns must not lose its data. If m.maxIdle other instances are idle, it closes the instance to save
// memory.
func (m *Module) release(in *instance, err error) {
	m.mu.Lock()
	enoughIdle := len(m.idle) >= m.maxIdle && len(m.waitingCalls) == 0
	if !m.closed && !enoughIdle && (err == nil || in.budget.err == nil && !isInconsistent(err)) {
		if in.hasLargeStack {
			m.keepStacks(in)
		}
		m.idle = append(m.idle, in)
		m.wakeCalls(1, nil)
		m.startInstance()
		m.mu.Unlock()
		return
	}
	m.mu.Unlock()
	in.guest.Close(context.Background())
	m.instanceEnded()
}

func isInconsistent(err error) bool {
	var f *Fault
	return !errors.As(err, &f) || f.Reason == ReasonTrap || f.Reason == ReasonMemory
}

// keepStacks is called when an instance becomes idle. It keeps the large stacks of the instance if they fit into
// maxKeptStacks; otherwise it frees them. The caller holds mu.
func (m *Module) keepStacks(in *instance) {
	if size := in.largeStackBytes(); m.idleStackBytes+size <= maxKeptStacks {
		m.idleStackBytes += size
		return
	}
	in.freeLargeStacks()
}

// instanceEnded counts the end of an instance. When the last instance of a closed module has ended, it frees the
// module.
func (m *Module) instanceEnded() {
	m.mu.Lock()
	m.instanceCount--
	last := m.closed && m.instanceCount == 0
	m.startInstance()
	m.mu.Unlock()
	if last {
		m.destroy()
	}
}

// Instances returns the number of instances, including instances that are being started.
func (m *Module) Instances() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.instanceCount
}
