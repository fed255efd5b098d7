package api

import (
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/ban"
)

// hostBanEngine is the part of the engine that holds the banned pairs. Such a pair is a proxy and a host for which the
// proxy is not chosen.
type hostBanEngine interface {
	HostBans() []ban.Pair
}

type hostBanHandler struct {
	engine hostBanEngine
	pool   Pool
}

func (h *hostBanHandler) routes(r fiber.Router) { r.Get("/rests", h.list) }

// hostBanView is the JSON of a proxy and a host for which the proxy is banned.
type hostBanView struct {
	ProxyID string    `json:"proxy_id"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

func (h *hostBanHandler) list(c *fiber.Ctx) error {
	out := []hostBanView{}
	for _, p := range h.engine.HostBans() {
		out = append(out, hostBanView{p.ProxyID, p.Host, timeAt(h.pool, p.Since), timeAt(h.pool, p.Until)})
	}
	return send(c, fiber.Map{"rests": out})
}
