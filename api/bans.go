package api

import (
	"fmt"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/rest"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// bans is the part of the engine that bans proxies.
type bans interface {
	rests
	// Bans returns the banned proxies, as pairs with the host "".
	Bans() []rest.Pair
	// BannedUntil returns the end of a proxy's ban; ok is false if it is not banned.
	BannedUntil(u *upstream.Upstream) (until time.Duration, ok bool)
	// Ban bans a proxy for the time d. With a host, it lets the pair of both rest instead.
	Ban(u *upstream.Upstream, host string, d time.Duration) rest.Pair
	// EndBan ends the ban of a proxy or, with a host, the rest of the pair. It returns false if there is none.
	EndBan(u *upstream.Upstream, host string) bool
}

// banHandler serves /proxies/:id/ban and /targets/:host.
type banHandler struct {
	engine bans
	pool   Pool
}

func (h *banHandler) routes(r fiber.Router) {
	r.Post("/proxies/:id/ban", h.ban)
	r.Delete("/proxies/:id/ban", h.end)
	r.Get("/targets/:host", h.target)
}

// banView is the JSON of a ban, or of a resting pair.
type banView struct {
	ProxyID string    `json:"proxy_id"`
	Host    string    `json:"host"` // "" for all hosts
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

func viewOfBan(pool Pool, p rest.Pair) banView {
	return banView{p.ProxyID, p.Host, pool.At(p.Since).UTC(), pool.At(p.Until).UTC()}
}

// ban serves POST /proxies/:id/ban. A ban or rest that ends later stays as it is.
func (h *banHandler) ban(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	var in struct {
		Host *string `json:"host"`
		For  *string `json:"for"`
	}
	if err := decode(c, &in); err != nil {
		return err
	}
	if in.For == nil {
		return badField("for", `for is missing; it must be a duration such as "10m"`)
	}
	host, most := "", rules.MaxBan
	if in.Host != nil {
		if host, err = hostField(*in.Host); err != nil {
			return err
		}
		most = rules.MaxRest
	}
	d, err := time.ParseDuration(*in.For)
	if err != nil || d < time.Second || d > most {
		return badField("for", fmt.Sprintf(`for must be a duration from 1s to %gh, such as "10m"`, most.Hours()))
	}
	if host == "" && u.Direct() {
		return conflict("a direct:// proxy cannot be banned for all hosts; name a host, or remove the proxy")
	}
	return send(c, viewOfBan(h.pool, h.engine.Ban(u, host, d)))
}

// end serves DELETE /proxies/:id/ban. With host in the query it ends the rest of the pair.
func (h *banHandler) end(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	host, given := query(c, "host")
	if given {
		if host, err = hostField(host); err != nil {
			return err
		}
	}
	if !h.engine.EndBan(u, host) {
		if host != "" {
			return notFound("the proxy does not rest for this host")
		}
		return notFound("the proxy is not banned; with ?host=HOST its rest for one host ends")
	}
	return c.SendStatus(fiber.StatusNoContent)
}

// target serves GET /targets/:host: the proxies that get no requests for a host.
func (h *banHandler) target(c *fiber.Ctx) error {
	host, err := param(c, "host")
	if err == nil {
		host, err = hostField(host)
	}
	if err != nil {
		return err
	}
	out := []banView{}
	for _, p := range h.engine.Rests() {
		if p.Host == host {
			out = append(out, viewOfBan(h.pool, p))
		}
	}
	for _, p := range h.engine.Bans() {
		out = append(out, viewOfBan(h.pool, p))
	}
	return send(c, fiber.Map{"host": host, "banned": out})
}

// hostField checks the name of a host without port.
func hostField(s string) (string, error) {
	host, err := rules.ParseHost(s)
	if err != nil {
		return "", badField("host", "host: "+err.Error())
	}
	for i := range len(host) {
		if host[i] == '*' {
			return "", badField("host", "host must be one host, without *")
		}
	}
	return host, nil
}
