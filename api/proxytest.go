package api

import (
	"context"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// tester is the part of the engine that tests proxies.
type tester interface {
	// Test tests a proxy now. It also returns the kind of the test; "" if the proxy cannot be tested. An error means
	// that a limit of this machine has prevented the test. The test then shows nothing about the proxy.
	Test(ctx context.Context, u *upstream.Upstream) (r upstream.CheckReport, kind string, err error)
}

// testHandler serves POST /proxies/:id/test.
type testHandler struct {
	engine tester
	pool   Pool
	ctx    context.Context // ends when the server stops
}

func (h *testHandler) routes(r fiber.Router) { r.Post("/proxies/:id/test", h.test) }

// testView is the JSON of the result of a test.
type testView struct {
	ProxyID        string  `json:"proxy_id"`
	Kind           string  `json:"kind"` // health_check, or connection without health.url
	Passed         bool    `json:"passed"`
	Error          string  `json:"error"`   // "" if the test passed
	Latency        float64 `json:"latency"` // s; 0 if the test failed
	TLSIntercepted bool    `json:"tls_intercepted"`
	ExitAddress    string  `json:"exit_address"` // "" unless this test has found it
}

func (h *testHandler) test(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	r, kind, err := h.engine.Test(h.ctx, u)
	switch {
	case err != nil:
		return newProblem(fiber.StatusServiceUnavailable, "local_limit", "the proxy was not tested: this machine has "+
			"no free file descriptor, port or memory ("+err.Error()+"); try again, or raise the limit of open files")
	case kind == "":
		return conflict("a direct:// proxy can be tested only with health.url")
	}
	v := testView{ProxyID: u.ID(), Kind: kind, Passed: r.Passed, Error: r.Fault, Latency: r.Latency.Seconds(),
		TLSIntercepted: r.Intercepted}
	if r.Exit.IsValid() {
		v.ExitAddress = r.Exit.String()
	}
	return send(c, v)
}
