package plugins

import (
	"context"
	"runtime"

	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// compiler limits the number of modules that are checked and compiled at the same time. Modules that take long to
// compile have a separate limit, so that other modules do not wait for them.
type compiler struct{ fastSlots, slowSlots chan struct{} }

func newCompiler() *compiler {
	return &compiler{fastSlots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), slowSlots: make(chan struct{}, 1)}
}

// run calls the function f as soon as the limit permits, and returns its error. If ctx ends before that, run does not
// call f, and returns the error of ctx.
func (c *compiler) run(ctx context.Context, code []byte, f func() error) error {
	slots := c.fastSlots
	if wasmhost.IsSlowToCompile(code) {
		slots = c.slowSlots
	}
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-slots }()
	return f()
}
