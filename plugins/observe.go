package plugins

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// observer passes observations on to one plugin, in a goroutine of its own, so that no request waits for it.
type observer struct {
	queue  chan core.Observation // set by start, once, before the plugin is among Registry.learners
	done   chan struct{}         // closed by close
	closed sync.Once
	missed atomic.Uint64 // observations that did not fit into the queue
	called atomic.Bool   // a request has called the plugin since it was in use last
}

const (
	// queued is how many observations wait for a plugin at most.
	queued = 1024
	// A plugin that learns takes at most one of observeShare parts of one processor for its observations: after each
	// observeSlice of work it pauses accordingly.
	observeShare = 4
	observeSlice = 2 * time.Millisecond
)

// Observe queues a finished attempt for the plugins that take observations and are in use (SetUsed), or whose
// configuration has observe = true. It waits for nothing: what does not fit into a plugin's queue is counted as
// missed (Info.Missed).
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

// startObserving requires Registry.mu.
func (p *plugin) startObserving() {
	if p.observer.queue == nil {
		p.observer.queue = make(chan core.Observation, queued)
		go p.observe()
	}
}

// observe calls the plugin with the queued observations until the plugin is retired.
func (p *plugin) observe() {
	var busy time.Duration // since the last pause
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

// observeNow calls the plugin's module, if it serves.
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
		p.succeeded()
	case !errors.Is(err, wasmhost.ErrClosed) && !errors.Is(err, wasmhost.ErrNotReady):
		p.fault(v, err)
	}
}

func (o *observer) close() { o.closed.Do(func() { close(o.done) }) }
