package api

import (
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
)

type userEngine interface {
	Users() []access.DailyUsage
	// UntilNextDay returns the time until the next day of the users' limits begins.
	UntilNextDay(now time.Time) time.Duration
}

var _ userEngine = (*engine.Engine)(nil)

type userHandler struct {
	engine userEngine
	now    func() time.Time
}

func (h *userHandler) routes(r fiber.Router) { r.Get("/users", h.list) }

// userView is the JSON of a user.
type userView struct {
	Name           string   `json:"name"`
	InFlight       int64    `json:"in_flight"`
	RequestsToday  int64    `json:"requests_today"`
	BytesToday     int64    `json:"bytes_today"`
	MaxInFlight    int      `json:"max_in_flight"`    // 0 for no limit, as in the next two fields
	RequestsPerDay int64    `json:"requests_per_day"` //
	BytesPerDay    int64    `json:"bytes_per_day"`
	Priority       string   `json:"priority"` // the highest priority of a request; "" for no limit
	Override       string   `json:"override"` // "" for gateway.override
	Allow          []string `json:"allow"`
	Deny           []string `json:"deny"`
	Regions        []string `json:"regions"`
}

func (h *userHandler) list(c *fiber.Ctx) error {
	out := []userView{}
	for _, u := range h.engine.Users() {
		v := userView{
			Name: u.Name, InFlight: u.InFlight, RequestsToday: u.Requests, BytesToday: u.Bytes,
			MaxInFlight: u.MaxInFlight, RequestsPerDay: u.RequestsPerDay, BytesPerDay: u.BytesPerDay,
			Override: u.Override.String(), Allow: notNil(u.Allow), Deny: notNil(u.Deny), Regions: notNil(u.Regions),
		}
		if u.Priority != 0 {
			v.Priority = u.Priority.String()
		}
		out = append(out, v)
	}
	now := h.now()
	return send(c, fiber.Map{"users": out, "day_ends": now.Add(h.engine.UntilNextDay(now)).Round(time.Second).UTC()})
}

// notNil returns an empty list for nil, so that the JSON has a list.
func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
