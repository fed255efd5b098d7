package plugins

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// observer passes observations to one plugin in a separate goroutine, so that no request waits for the plugin.
type observer struct {
	queue       chan core.Observation // startObserving sets it once
	done        chan struct{}         // closed by close
	closeOnce   sync.Once
	missedCount atomic.Uint64 // observations discarded because the queue was full
	wasCalled   atomic.Bool   // a request has called this backoff since the backoff was last in use (SetIsUsed)
}

const (
	// observeQueueSize is the size of a plugin's queue.
	observeQueueSize = 1024
	// The calls of the export "observe" of one plugin use at most 1/observeShare of a processor. After calls that have
	// taken observeBurst in total, the next call waits.
	observeShare = 4
	observeBurst = 2 * time.Millisecond
)

// Observe queues a finished attempt for the plugins that export "observe" and get observations now. These are plugins
// in use (SetIsUsed), plugins configured with observe = true, and backoffs that a request's own policy has called.
// Observe does not block: if the queue of a plugin is full, the plugin misses the observation.
func (r *Registry) Observe(o *core.Observation) {
	used := r.isUsed.Load()
	for _, p := range *r.observingPlugins.Load() {
		observes, inUse := p.observes(used)
		if inUse {
			p.observer.wasCalled.Store(false)
		}
		if observes {
			p.queueObservation(o)
		}
	}
}

// Observes reports whether Observe would queue an attempt now.
func (r *Registry) Observes() bool {
	used := r.isUsed.Load()
	for _, p := range *r.observingPlugins.Load() {
		if observes, _ := p.observes(used); observes {
			return true
		}
	}
	return false
}

// observes reports whether the plugin gets observations now, and whether the plugin is in use (SetIsUsed).
func (p *plugin) observes(used *func(name string) bool) (observes, inUse bool) {
	v := p.current.Load()
	if v.quarantined.Load() {
		return false, false
	}
	inUse = used == nil || (*used)(p.name)
	return inUse || v.spec.Observe || p.observer.wasCalled.Load(), inUse
}

func (p *plugin) queueObservation(o *core.Observation) {
	select {
	case p.observer.queue <- *o:
	default:
		p.observer.missedCount.Add(1)
	}
}

// The caller of startObserving holds Registry.mu.
func (p *plugin) startObserving() {
	if p.observer.queue == nil {
		p.observer.queue = make(chan core.Observation, observeQueueSize)
		go p.runObserver()
	}
}

// runObserver passes the queued observations to the plugin until the plugin is closed.
func (p *plugin) runObserver() {
	var callTime time.Duration // time spent in calls since the last pause
	for {
		select {
		case <-p.observer.done:
			return
		case o := <-p.observer.queue:
			begin := time.Now()
			p.callObserve(&o)
			callTime += time.Since(begin)
		}
		if callTime < observeBurst {
			continue
		}
		select {
		case <-p.observer.done:
			return
		case <-time.After(callTime * (observeShare - 1)):
			callTime = 0
		}
	}
}

func (p *plugin) callObserve(o *core.Observation) {
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
		p.countFault(v, err)
	}
}

func (o *observer) close() { o.closeOnce.Do(func() { close(o.done) }) }
