package gateway

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A connection that begins to wait for a request just as the drain begins is
// closed at once, as one that waited already.
func TestADrainMeetsAConnectionAboutToWait(t *testing.T) {
	var meanwhile atomic.Pointer[func()]
	r := newRig(t, nil, func(o *options) {
		o.now = func() time.Time {
			if f := meanwhile.Load(); f != nil {
				(*f)()
			}
			return time.Now()
		}
	})
	shut := make(chan struct{})
	drain := sync.OnceFunc(func() {
		go func() {
			defer close(shut)
			r.Shutdown(context.Background())
		}()
		for !r.draining.Load() {
			runtime.Gosched()
		}
		r.eachConn((*conn).drain) // if it has not been drained yet
	})
	meanwhile.Store(&drain)
	r.dial().ended() // it asks the time, to know until when it waits
	<-shut
}
