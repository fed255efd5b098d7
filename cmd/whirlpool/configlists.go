package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lists"
)

// maxFetches is the maximum number of proxy lists that are fetched at the same time.
const maxFetches = 8

// listFetches fetches the proxy lists of a configuration for a check. It is safe for concurrent use.
type listFetches struct {
	ctx     context.Context
	timeout time.Duration // for the fetch of one list
	out     io.Writer     // output of the progress; nil for none
	places  chan struct{}

	mu       sync.Mutex
	begun    int // number of calls of fetch
	done     int
	bytes    int
	shown    time.Time
	anyShown bool
}

func newListFetches(ctx context.Context, timeout time.Duration, out io.Writer) *listFetches {
	return &listFetches{ctx: ctx, timeout: timeout, out: out, places: make(chan struct{}, maxFetches)}
}

// fetch implements config.Source.Fetch.
func (f *listFetches) fetch(s lists.Source) ([]byte, error) {
	f.update(func() { f.begun++ })
	defer f.update(func() { f.done++ })
	f.places <- struct{}{}
	defer func() { <-f.places }()
	ctx, cancel := context.WithTimeout(f.ctx, f.timeout)
	defer cancel()
	data, err := lists.Fetch(ctx, s, func(n int) { f.update(func() { f.bytes += n }) })
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("it did not end within %v (--timeout)", f.timeout)
	}
	return data, err
}

// update calls the function change, which changes the counts. Then it prints the counts, at most ten times a second.
func (f *listFetches) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	if f.out == nil || time.Since(f.shown) < 100*time.Millisecond {
		return
	}
	f.shown, f.anyShown = time.Now(), true
	fmt.Fprintf(f.out, "\r%d of %d lists fetched, %.1f MB \x1b[K", f.done, f.begun, float64(f.bytes)/1e6)
}

// end removes the progress from the terminal.
func (f *listFetches) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.anyShown {
		fmt.Fprint(f.out, "\r\x1b[K")
	}
}
