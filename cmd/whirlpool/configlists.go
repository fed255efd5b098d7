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

// listFetches fetches the proxy lists of a configuration that is being checked. It is safe for concurrent use.
type listFetches struct {
	ctx     context.Context
	timeout time.Duration // maximum time for the fetch of one list
	out     io.Writer     // output of the progress; nil for none
	slots   chan struct{}

	mu           sync.Mutex // guards the fields below
	startedCount int        // number of calls of fetch
	endedCount   int
	byteCount    int
	lastPrint    time.Time
	hasPrinted   bool
}

func newListFetches(ctx context.Context, timeout time.Duration, out io.Writer) *listFetches {
	return &listFetches{ctx: ctx, timeout: timeout, out: out, slots: make(chan struct{}, maxFetches)}
}

// fetch implements config.Source.Fetch.
func (f *listFetches) fetch(s lists.Source) ([]byte, error) {
	f.updateProgress(func() { f.startedCount++ })
	defer f.updateProgress(func() { f.endedCount++ })
	f.slots <- struct{}{}
	defer func() { <-f.slots }()
	ctx, cancel := context.WithTimeout(f.ctx, f.timeout)
	defer cancel()
	data, err := lists.Fetch(ctx, s, func(n int) { f.updateProgress(func() { f.byteCount += n }) })
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("it did not end within %v (--timeout)", f.timeout)
	}
	return data, err
}

// updateProgress calls the function change to update the counts. It prints the counts at most ten times a second.
func (f *listFetches) updateProgress(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	if f.out == nil || time.Since(f.lastPrint) < 100*time.Millisecond {
		return
	}
	f.lastPrint, f.hasPrinted = time.Now(), true
	fmt.Fprintf(f.out, "\r%d of %d lists fetched, %.1f MB \x1b[K", f.endedCount, f.startedCount,
		float64(f.byteCount)/1e6)
}

// clearProgress removes the progress from the terminal.
func (f *listFetches) clearProgress() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hasPrinted {
		fmt.Fprint(f.out, "\r\x1b[K")
	}
}
