package api

import (
	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// drainer is the part of the engine that /readyz uses.
type drainer interface {
	Draining() bool
}

// healthHandler serves /healthz and /readyz.
type healthHandler struct {
	version string
	engine  drainer
	pool    Pool
	cluster Cluster // nil without a cluster
}

func (h *healthHandler) routes(r fiber.Router) {
	r.Get("/healthz", h.healthz)
	r.Get("/readyz", h.readyz)
}

func (h *healthHandler) healthz(c *fiber.Ctx) error {
	return send(c, struct {
		Status  string `json:"status"`
		Version string `json:"version"`
	}{"ok", h.version})
}

// readyz responds with 200 if the gateway accepts clients and at least one proxy accepts requests. The store of the
// cluster need not be reachable.
func (h *healthHandler) readyz(c *fiber.Ctx) error {
	if h.engine.Draining() {
		return notReady("the gateway is shutting down")
	}
	for _, u := range h.pool.Snapshot().All {
		if u.Breaker().State() != core.Open && !u.Draining() {
			return send(c, h.readyView())
		}
	}
	return notReady("no proxy accepts requests")
}

func (h *healthHandler) readyView() fiber.Map {
	v := fiber.Map{"status": "ready"}
	if h.cluster != nil {
		if alone, _ := h.cluster.Alone(); alone {
			v["note"] = "the cluster's store cannot be reached, so this gateway is alone: see GET /cluster"
		}
	}
	return v
}

func notReady(message string) error {
	return newProblem(fiber.StatusServiceUnavailable, "not_ready", message)
}
