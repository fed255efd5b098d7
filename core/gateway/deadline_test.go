package gateway

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// deadlines is a connection that records its last read deadline.
type deadlines struct {
	net.Conn
	mu   sync.Mutex
	last time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = t
	return nil
}

func (d *deadlines) ended() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last.Equal(aLongTimeAgo)
}

// For all orders of the calls, a wait has the deadline that was set for it, unless the wait has been ended.
func TestAReadDeadlineHasOneOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var draining atomic.Bool
		c := &deadlines{}
		d := &readControl{conn: c, draining: &draining}
		now := time.Now()
		phase, stopped, partial := phaseFresh, false, false
		over := func() bool { return stopped || draining.Load() && phase != phaseBusy }
		var want time.Time
		t.Repeat(map[string]func(*rapid.T){
			"await": func(*rapid.T) {
				want = now.Add(time.Second)
				d.setDeadline(want)
				require.Equal(t, over(), c.ended())
			},
			"await the rest of a head": func(*rapid.T) {
				before := c.last
				d.beginHeadWait(now.Add(2 * time.Second))
				if partial {
					require.Equal(t, before, c.last, "only the first call counts")
					return
				}
				partial, want = true, now.Add(2*time.Second)
				require.Equal(t, over(), c.ended())
			},
			"no deadline": func(*rapid.T) {
				want = time.Time{}
				d.setDeadline(want)
				require.Equal(t, over(), c.ended())
			},
			"await a request": func(t *rapid.T) {
				if phase == phaseBusy {
					t.Skip("one is in flight")
				}
				partial = false
				require.Equal(t, !draining.Load(), d.beginRequestWait(now))
				if !over() {
					left := c.last.Sub(now)
					require.LessOrEqual(t, left, idleTimeout)
					require.GreaterOrEqual(t, left, idleTimeout-idleSlack)
				}
			},
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t,
					"s")) * time.Second)
			},
			"another phase": func(t *rapid.T) {
				phase = rapid.Int32Range(phaseBusy, phaseIdle).Draw(t, "phase")
				d.setPhase(phase)
			},
			"resume":    func(*rapid.T) { stopped = false; d.resumeBodyReads() },
			"interrupt": func(*rapid.T) { d.interruptRead(); require.True(t, c.ended()); d.setDeadline(want) },
			"stop":      func(*rapid.T) { stopped = true; d.stopBodyReads(); require.True(t, c.ended()) },
			"the gateway's drain": func(*rapid.T) {
				before := c.ended()
				draining.Store(true)
				d.interruptIdleRead()
				require.Equal(t, before || phase != phaseBusy, c.ended())
			},
		})
	})
}

// If a drain begins while an idle connection begins to wait, the wait ends.
func TestADrainDuringAWait(t *testing.T) {
	for range 1000 {
		var draining atomic.Bool
		c := &deadlines{}
		d := &readControl{conn: c, draining: &draining}
		d.setPhase(phaseBusy)
		var wg sync.WaitGroup
		goesOn := false
		wg.Go(func() {
			d.setPhase(phaseIdle)
			goesOn = d.beginRequestWait(time.Now())
		})
		wg.Go(func() {
			draining.Store(true)
			d.interruptIdleRead()
		})
		wg.Wait()
		require.True(t, !goesOn || c.ended())
	}
}
