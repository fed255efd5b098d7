package plugins

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// observer passes observations to one plugin in a separate goroutine, so that no request waits for
// the plugin.
type observer struct {
	queue  chan core.Observation // startObserving sets it once
	done   chan struct{}         // closed by close
	closed sync.Once
	missed atomic.Uint64 // observations discarded because the queue was full
	called atomic.Bool   // a request has called this backoff since the backoff was last in use (SetUsed)
}

const (
	// queued is the size of a plugin's queue.
	queued = 1024
	// The calls of one plugin's observe use at most 1/observeShare of a processor. To limit the calls, the observer
	// pauses when its calls since the last pause have taken observeSlice in total.
	observeShare = 4
	observeSlice = 2 * time.Millisecond
)

// Observe queues a finished attempt for each plugin that takes observations. The plugin must be in use (SetUsed), be
// configured with observe = true, or be a backoff that a request's own policy has called. Observe does not block. If
// a plugin's queue is full, the observation is counted as missed (Info.Missed).
func (r *Registry) Observe(o *core.Observation) {
	learners := *r.learners.Load()
	if len(learners) == 0 {
		return
	}
	used := r.used.Load()
	for _, p := range learners {
		v := p.current.Load()
		switch {
		case v.quarantined.Load():
		case used == nil || (*used)(p.name):
			p.observer.called.Store(false)
			p.queueObservation(o)
		case v.spec.Observe || p.observer.called.Load():
			p.queueObservation(o)
		}
	}
}

func (p *plugin) queueObservation(o *core.Observation) {
	select {
	case p.observer.queue <- *o:
	default:
		p.observer.missed.Add(1)
	}
}

// startObserving starts the plugin's observer. The caller holds Registry.mu.
func (p *plugin) startObserving() {
	if p.observer.queue == nil {
		p.observer.queue = make(chan core.Observation, queued)
		go p.observe()
	}
}

// observe calls the plugin with the queued observations until the plugin is retired.
func (p *plugin) observe() {
	var busy time.Duration // time spent in calls since the last pause
	for {
		select {
		case <-p.observer.done:
			return
		case o := <-p.observer.queue:
			begin := time.Now()
			p.observeNow(&o)
			busy += time.Since(begin)
		}
		if busy < observeSlice {
			continue
		}
		select {
		case <-p.observer.done:
			return
		case <-time.After(busy * (observeShare - 1)):
			busy = 0
		}
	}
}

// observeNow calls the plugin with one observation, if its module is ready.
func (p *plugin) observeNow(o *core.Observation) {
	v := p.current.Load()
	if v.quarantined.Load() {
		return
	}
	start := p.beginTiming()
	err := v.module.Observe(o)
	p.endTiming(start)
	switch {
	case err == nil:
		p.calls.Add(1)
	case !errors.Is(err, wasmhost.ErrClosed) && !errors.Is(err, wasmhost.ErrNotReady):
		p.fault(v, err)
	}
}

func (o *observer) close() { o.closed.Do(func() { close(o.done) }) }
