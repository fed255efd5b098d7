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
		d := &readDeadline{conn: c, draining: &draining}
		now := time.Now()
		phase, stopped, partial := fresh, false, false
		over := func() bool { return stopped || draining.Load() && phase != busy }
		var want time.Time
		t.Repeat(map[string]func(*rapid.T){
			"await": func(*rapid.T) {
				want = now.Add(time.Second)
				d.await(want)
				require.Equal(t, over(), c.ended())
			},
			"await the rest of a head": func(*rapid.T) {
				before := c.last
				d.awaitRest(now.Add(2 * time.Second))
				if partial {
					require.Equal(t, before, c.last, "only the first call counts")
					return
				}
				partial, want = true, now.Add(2*time.Second)
				require.Equal(t, over(), c.ended())
			},
			"no deadline": func(*rapid.T) {
				want = time.Time{}
				d.await(want)
				require.Equal(t, over(), c.ended())
			},
			"await a request": func(t *rapid.T) {
				if phase == busy {
					t.Skip("one is in flight")
				}
				partial = false
				require.Equal(t, !draining.Load(), d.awaitRequest(now))
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
			"another phase": func(t *rapid.T) { phase = rapid.Int32Range(busy, idle).Draw(t, "phase"); d.enter(phase) },
			"resume":        func(*rapid.T) { stopped = false; d.resume() },
			"interrupt":     func(*rapid.T) { d.interrupt(); require.True(t, c.ended()); d.await(want) },
			"stop":          func(*rapid.T) { stopped = true; d.stop(); require.True(t, c.ended()) },
			"the gateway's drain": func(*rapid.T) {
				before := c.ended()
				draining.Store(true)
				d.drain()
				require.Equal(t, before || phase != busy, c.ended())
			},
		})
	})
}

// If a drain begins while an idle connection begins to wait, the wait ends.
func TestADrainDuringAWait(t *testing.T) {
	for range 1000 {
		var draining atomic.Bool
		c := &deadlines{}
		d := &readDeadline{conn: c, draining: &draining}
		d.enter(busy)
		var wg sync.WaitGroup
		goesOn := false
		wg.Go(func() {
			d.enter(idle)
			goesOn = d.awaitRequest(time.Now())
		})
		wg.Go(func() {
			draining.Store(true)
			d.drain()
		})
		wg.Wait()
		require.True(t, !goesOn || c.ended())
	}
}
