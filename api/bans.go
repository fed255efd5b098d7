package api

import (
	"fmt"
	"net"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// banEngine is the part of the engine that bans proxies.
type banEngine interface {
	hostBanEngine
	// Bans returns the bans of proxies for all hosts. The host of each pair is "".
	Bans() []ban.Pair
	// Avoided returns the pairs of a proxy and a target (host:port) where the target probably refuses the proxy.
	// Requests for the target use other proxies first.
	Avoided() []ban.Pair
	// BannedUntil returns the end of a proxy's ban. It returns false if the proxy is not banned.
	BannedUntil(u *upstream.Upstream) (until time.Duration, ok bool)
	// Ban bans a proxy for a duration. If host is not "", the proxy is banned only for this host.
	Ban(u *upstream.Upstream, host string, d time.Duration) ban.Pair
	// EndBan ends a proxy's ban. If host is not "", it ends the ban of the proxy for this host. It returns
	// false if there is no such ban.
	EndBan(u *upstream.Upstream, host string) bool
}

// banHandler serves /proxies/:id/ban and /targets/:host.
type banHandler struct {
	engine  banEngine
	pool    Pool
	metrics Metrics
}

func (h *banHandler) routes(r fiber.Router) {
	r.Post("/proxies/:id/ban", h.ban)
	r.Delete("/proxies/:id/ban", h.endBan)
	r.Get("/targets/:host", h.target)
}

// banView is the JSON of a ban.
type banView struct {
	ProxyID string    `json:"proxy_id"`
	Host    string    `json:"host"` // "" for all hosts
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

func viewOfBan(pool Pool, p ban.Pair) banView {
	return banView{p.ProxyID, p.Host, timeAt(pool, p.Since), timeAt(pool, p.Until)}
}

// viewsOfAvoided returns the views of the pairs in all for which the function match returns true.
func viewsOfAvoided(pool Pool, all []ban.Pair, match func(*ban.Pair) bool) []banView {
	out := []banView{}
	for i := range all {
		if match(&all[i]) {
			out = append(out, viewOfBan(pool, all[i]))
		}
	}
	return out
}

// ban serves POST /proxies/:id/ban. It never shortens a ban.
func (h *banHandler) ban(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	var input struct {
		Host *string `json:"host"`
		For  *string `json:"for"`
	}
	if err := decodeBody(c, &input); err != nil {
		return err
	}
	if input.For == nil {
		return badField("for", `for is missing; it must be a duration such as "10m"`)
	}
	host, maxDuration := "", rules.MaxBan
	if input.Host != nil {
		if host, err = hostField(*input.Host); err != nil {
			return err
		}
		maxDuration = rules.MaxRest
	}
	d, err := time.ParseDuration(*input.For)
	if err != nil || d < time.Second || d > maxDuration {
		return badField("for", fmt.Sprintf(`for must be a duration from 1s to %gh, such as "10m"`, maxDuration.Hours()))
	}
	if host == "" && u.Direct() {
		return conflict("a direct:// proxy cannot be banned for all hosts; name a host, or remove the proxy")
	}
	if host != "" {
		setChangedNames(c, "host", host)
	}
	return send(c, viewOfBan(h.pool, h.engine.Ban(u, host, d)))
}

// endBan serves DELETE /proxies/:id/ban. If the query has the parameter host, the ban does not end; instead, the proxy
// is no longer banned for this host.
func (h *banHandler) endBan(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	host, given := queryValue(c, "host")
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
	if host != "" {
		setChangedNames(c, "host", host)
	}
	return c.SendStatus(fiber.StatusNoContent)
}

// target serves GET /targets/:host: it responds with the proxies that get no requests for a host, and with the attempts
// at the host.
func (h *banHandler) target(c *fiber.Ctx) error {
	host, err := pathParam(c, "host")
	if err == nil {
		host, err = hostField(host)
	}
	if err != nil {
		return err
	}
	out := []banView{}
	for _, p := range h.engine.HostBans() {
		if p.Host == host {
			out = append(out, viewOfBan(h.pool, p))
		}
	}
	for _, p := range h.engine.Bans() {
		out = append(out, viewOfBan(h.pool, p))
	}
	window, err := queryWindow(c)
	if err != nil {
		return err
	}
	sum := h.metrics.Reasons().SumTarget(host, window)
	avoided := viewsOfAvoided(h.pool, h.engine.Avoided(), func(p *ban.Pair) bool {
		name, _, err := net.SplitHostPort(p.Host)
		return err == nil && name == host
	})
	return send(c, struct {
		Host    string    `json:"host"`
		Banned  []banView `json:"banned"`
		Avoided []banView `json:"avoided"` // here, the Host of a pair is host:port
		reasonsView
	}{host, out, avoided, viewOfReasons(&sum, window)})
}

// hostField parses a host without a port.
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
