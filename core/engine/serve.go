package engine

import (
	"context"
	"net"
	"time"
)

// ForbidAddress makes each connection through the pool to the given address fail. The caller passes the address of the
// API. Serve does the same for the gateway's address.
func (e *Engine) ForbidAddress(a net.Addr) {
	if tcp, ok := a.(*net.TCPAddr); ok {
		e.transport.AddOwnAddress(tcp)
	}
}

// maxFirstChecksWait is the longest wait of Serve for the first reachability checks.
const maxFirstChecksWait = 100 * time.Millisecond

// Serve accepts clients from l until Shutdown. It first waits until the first reachability checks have ended, but
// at most 0.1 s, so that the first requests do not go to dead proxies.
func (e *Engine) Serve(l net.Listener) error {
	e.reloadMu.Lock()
	e.listeners = append(e.listeners, l)
	e.reloadMu.Unlock()
	e.ForbidAddress(l.Addr())
	e.reach.AwaitFirst(e.background, maxFirstChecksWait)
	return e.gateway.Serve(l)
}

// AnnounceDrain announces a Shutdown: from then on Draining returns true, and each client connection ends with its
// next response. New clients and requests are still served.
func (e *Engine) AnnounceDrain() {
	e.announced.Store(true)
	e.gateway.CloseAfterResponse()
}

// StopAccepting closes the listeners. Then it waits until each client connection has a request in flight or is
// closed, at most until ctx ends.
func (e *Engine) StopAccepting(ctx context.Context) {
	e.closeListeners()
	e.gateway.WaitUntilBusy(ctx)
}

func (e *Engine) closeListeners() {
	e.reloadMu.Lock()
	defer e.reloadMu.Unlock()
	for _, l := range e.listeners {
		l.Close()
	}
}

// Shutdown refuses new clients and new calls of Do. It waits for the requests in flight until ctx ends. When ctx
// ends, each remaining request gets a 503, or its connection is closed.
func (e *Engine) Shutdown(ctx context.Context) {
	e.stopOnce.Do(e.forbidCalls)
	e.closeListeners()
	e.gateway.Shutdown(ctx)
	ended := make(chan struct{})
	go func() {
		e.calls.Wait() // does not return before the caller has closed the bodies of all responses
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	e.endCalls()
	e.wg.Wait()
	e.transport.Close()
}

func (e *Engine) forbidCalls() {
	e.callsMu.Lock()
	defer e.callsMu.Unlock()
	close(e.stop)
}

// beginCall counts the start of a call of Do, for which Shutdown waits. It returns false if Shutdown has begun.
func (e *Engine) beginCall() bool {
	e.callsMu.Lock()
	defer e.callsMu.Unlock()
	if e.isStopped() {
		return false
	}
	e.calls.Add(1)
	return true
}

// Draining reports whether AnnounceDrain or Shutdown has been called.
func (e *Engine) Draining() bool { return e.announced.Load() || e.isStopped() }

// isStopped reports whether Shutdown has begun.
func (e *Engine) isStopped() bool {
	select {
	case <-e.stop:
		return true
	default:
		return false
	}
}
