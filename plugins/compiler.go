package plugins

import (
	"context"
	"runtime"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// compiler limits the number of modules that are checked and compiled at the same time: uploads, fetched modules and
// modules of a rollback. Modules that take long to compile have a separate limit, so that other modules do not wait
// for them.
type compiler struct{ quick, slow chan struct{} }

func newCompiler() *compiler {
	return &compiler{quick: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), slow: make(chan struct{}, 1)}
}

// run calls f as soon as the limit for the module permits, and returns the error of f. If ctx ends before that, run
// returns the error of ctx.
func (c *compiler) run(ctx context.Context, code []byte, f func() error) error {
	lane := c.quick
	if wasmhost.Slow(code) {
		lane = c.slow
	}
	select {
	case lane <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-lane }()
	return f()
}
