package main

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/memory"
)

// boundMemory returns memory to the system whenever the process is idle, until stop is called. If the environment
// has no GOMEMLIMIT, it sets the runtime's memory limit to nine tenths of the limit of the control group.
func boundMemory(ctx context.Context, log *slog.Logger) (stop func()) {
	if limit, ok := memory.CgroupLimit(os.DirFS("/")); ok && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit / 10 * 9)
		log.Info("memory limit", slog.Int64("control_group", limit), slog.Int64("runtime", limit/10*9))
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { memory.Release(ctx, memory.Read, memory.Free) })
	return func() {
		cancel()
		wg.Wait()
	}
}
