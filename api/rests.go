package api

import (
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/rest"
)

// restEngine is the part of the engine that holds the resting pairs. Such a pair is a proxy and a host for which the
// proxy is not chosen.
type restEngine interface {
	Rests() []rest.Pair
}

type restHandler struct {
	engine restEngine
	pool   Pool
}

func (h *restHandler) routes(r fiber.Router) { r.Get("/rests", h.list) }

// restView is the JSON of a proxy and a host for which the proxy rests.
type restView struct {
	ProxyID string    `json:"proxy_id"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

func (h *restHandler) list(c *fiber.Ctx) error {
	out := []restView{}
	for _, p := range h.engine.Rests() {
		out = append(out, restView{p.ProxyID, p.Host, h.pool.TimeAt(p.Since).UTC(), h.pool.TimeAt(p.Until).UTC()})
	}
	return send(c, fiber.Map{"rests": out})
}
