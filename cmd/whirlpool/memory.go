package main

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/memory"
)

// limitMemory sets the memory limit of the Go runtime (memory.RuntimeLimit). It starts memory.Release and
// Growth.Follow, which return unused memory to the system. The function stop ends them.
func limitMemory(ctx context.Context, log *slog.Logger, growth *memory.Growth) (stop func()) {
	cgroup, hasCgroup := memory.CgroupLimit(os.DirFS("/"))
	if limit, ok := memory.RuntimeLimit(os.Getenv("GOMEMLIMIT"), cgroup, hasCgroup); ok {
		debug.SetMemoryLimit(limit)
		log.Info("memory limit", slog.Int64("control_group", cgroup), slog.Int64("runtime", limit))
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { memory.Release(ctx, memory.Read, memory.Free) })
	wg.Go(func() { growth.Follow(ctx, memory.Read, debug.FreeOSMemory) })
	return func() {
		cancel()
		wg.Wait()
	}
}
