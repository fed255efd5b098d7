package api

import (
	"errors"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// policyView is the policy in force.
type policyView struct {
	retry.Policy
	UpdatedAt time.Time `json:"updated_at"`
	Source    string    `json:"source"`
}

func viewOf(v retry.View) policyView { return policyView{v.Policy, v.UpdatedAt.UTC(), v.Source} }

func (s *Server) getPolicy(c *fiber.Ctx) error {
	return s.send(c, viewOf(s.Engine.Policies().View()))
}

func (s *Server) putPolicy(c *fiber.Ctx) error {
	var o retry.Override
	if err := decode(c, &o); err != nil {
		return err
	}
	s.uses.Lock() // it may name a plugin
	defer s.uses.Unlock()
	view, err := s.Engine.Policies().Put(func(p retry.Policy) (retry.Policy, error) {
		p = p.Merge(o)
		return p, p.Validate(s.Engine.HasBackoff)
	})
	if err != nil {
		return fieldError("", err)
	}
	return s.send(c, viewOf(view))
}

// fieldError refuses a policy whose fields stand at path: "" or, say, "retry.".
func fieldError(path string, err error) error {
	var f *retry.FieldError
	if errors.As(err, &f) {
		details := fiber.Map{"field": path + f.Field}
		if f.Limit != "" {
			details["limit"] = f.Limit
		}
		return refuse(400, "invalid_field", path+err.Error(), details)
	}
	return err
}

// breakerView is one breaker.
type breakerView struct {
	ProxyID          string     `json:"proxy_id"`
	State            string     `json:"state"`
	FailureCount     int        `json:"failure_count"`
	FailureThreshold int        `json:"failure_threshold"`
	WindowDuration   float64    `json:"window_duration"`
	TimeoutDuration  float64    `json:"timeout_duration"`
	NextTestTime     *time.Time `json:"next_test_time"`
	RetryInSeconds   *float64   `json:"retry_in_seconds"`
	LastStateChange  time.Time  `json:"last_state_change"`
}

func breakerOf(u *upstream.Upstream) breakerView {
	v := u.Breaker().Snapshot()
	b := breakerView{
		ProxyID: u.ID(), State: v.State.String(), FailureCount: v.FailureCount, FailureThreshold: v.Config.FailureThreshold,
		WindowDuration: v.Config.WindowDuration.Seconds(), TimeoutDuration: v.Config.TimeoutDuration.Seconds(), LastStateChange: v.LastChange.UTC(),
	}
	if v.State == core.Open {
		at, in := v.NextTest.UTC(), max(time.Until(v.NextTest).Seconds(), 0)
		b.NextTestTime, b.RetryInSeconds = &at, &in
	}
	return b
}

func (s *Server) listBreakers(c *fiber.Ctx) error {
	out := []breakerView{}
	for _, u := range sorted(s.Engine.Pool().Snapshot()) {
		out = append(out, breakerOf(u))
	}
	return s.send(c, fiber.Map{"circuit_breakers": out})
}

// proxy finds the proxy that a path names.
func (s *Server) proxy(c *fiber.Ctx) (*upstream.Upstream, error) {
	id, err := param(c, "id")
	if err != nil {
		return nil, err
	}
	u := s.Engine.Pool().Snapshot().Get(id)
	if u == nil {
		return nil, refuse(404, "not_found", "there is no proxy "+strconv.Quote(clip(id)), nil)
	}
	return u, nil
}

func (s *Server) getBreaker(c *fiber.Ctx) error {
	u, err := s.proxy(c)
	if err != nil {
		return err
	}
	return s.send(c, struct {
		breakerView
		Why whyView `json:"why"`
	}{breakerOf(u), s.whyOf(u.Why())})
}

func (s *Server) resetBreaker(c *fiber.Ctx) error {
	u, err := s.proxy(c)
	if err != nil {
		return err
	}
	u.Breaker().Reset()
	return s.send(c, breakerOf(u))
}

// hours reads the query's window: 1 to 168, 24 without one.
func hours(c *fiber.Ctx) (int, error) {
	return whole(c, "hours", 1, metrics.MaxRetentionHours, metrics.DefaultRetentionHours)
}

func (s *Server) breakerEvents(c *fiber.Ctx) error {
	n, err := hours(c)
	if err != nil {
		return err
	}
	m := s.Engine.Metrics()
	return s.send(c, struct {
		metrics.Events
		RetentionHours int `json:"retention_hours"`
	}{m.Events(n), m.RetentionHours()})
}

func (s *Server) summary(c *fiber.Ctx) error { return s.send(c, s.Engine.Metrics().Summary()) }

func (s *Server) timeseries(c *fiber.Ctx) error {
	n, err := hours(c)
	if err != nil {
		return err
	}
	step := time.Hour
	switch interval, given := query(c, "interval"); {
	case !given, interval == "hour":
	case interval == "day":
		step = 24 * time.Hour
	default:
		return refuse(400, "invalid_field", "interval must be hour or day", fiber.Map{"field": "interval"})
	}
	m := s.Engine.Metrics()
	return s.send(c, fiber.Map{"data_points": m.Series(n, step), "retention_hours": m.RetentionHours()})
}

func (s *Server) byProxy(c *fiber.Ctx) error {
	n, err := hours(c)
	if err != nil {
		return err
	}
	m := s.Engine.Metrics()
	return s.send(c, fiber.Map{"proxies": m.ByProxy(n), "retention_hours": m.RetentionHours()})
}
