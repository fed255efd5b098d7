package wasmhost

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ErrBusy is wrapped by the fault of a call that waited for an instance in
// vain: all were at work. It says nothing against the module's answers.
var ErrBusy = errors.New("every instance of the plugin was at work")

// instances is how many may exist at once.
func (m *Module) instances() int {
	if m.desc.Learns {
		return 1
	}
	return max(1, m.limits.Instances)
}

// acquire takes an idle instance. Where there is none one is started, in the
// background and only up to a bound, so that neither a slow start nor many
// slow calls hold this one up for longer than wait.
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
	// From here on nothing is quick.
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
			} else { // woken this very moment: let another have it
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

// take removes the instance that became idle last, and returns nil if there is
// none. It requires mu.
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

// wake tells the n calls that wait longest to try again, or why they need not.
// The instance is not reserved for them: a call that comes meanwhile may take it,
// since one that runs already can use it sooner than one that has yet to be
// scheduled. It requires mu.
func (m *Module) wake(n int, err error) {
	n = min(n, len(m.waiting))
	for _, w := range m.waiting[:n] {
		w <- err
	}
	m.waiting = m.waiting[n:]
}

// start makes instances, one after the other, while calls wait and there may
// be more. It requires mu.
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
			m.gone()
			return
		}
		m.mu.Unlock()
		m.release(in, nil)
	}()
}

// release gives an instance back. No more are kept idle than can be at work at
// once, and a few, for the sake of the memory they take. One that trapped, that the host ended, or
// whose memory cannot be trusted, is thrown away; after a wrong answer alone it is
// kept, so that a module that learns loses nothing of what it has learned.
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
	m.gone()
}

func spoiled(err error) bool {
	var f *Fault
	return !errors.As(err, &f) || f.Reason == ReasonTrap || f.Reason == ReasonMemory
}

// keepStacks gives back the stacks of an instance that is idle from now on, unless
// they fit into keptStacks. It requires mu.
func (m *Module) keepStacks(in *instance) {
	if size := in.grown(); m.stacks+size <= keptStacks {
		m.stacks += size
		return
	}
	in.shrink()
}

// gone counts an instance out; the last one of a closed module closes it.
func (m *Module) gone() {
	m.mu.Lock()
	m.live--
	last := m.closed && m.live == 0
	m.start()
	m.mu.Unlock()
	if last {
		m.destroy()
	}
}

// Instances is how many exist or start at the moment.
func (m *Module) Instances() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live
}
