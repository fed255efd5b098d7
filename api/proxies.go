package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

func sorted(s *upstream.Snapshot) []*upstream.Upstream {
	all := slices.Clone(s.All)
	slices.SortFunc(all, func(a, b *upstream.Upstream) int { return strings.Compare(a.ID(), b.ID()) })
	return all
}

// proxyView is one proxy; its URL is without credentials.
type proxyView struct {
	ID          string            `json:"id"`
	URL         string            `json:"url"`
	Region      string            `json:"region"`
	Weight      float64           `json:"weight"`
	Cost        float64           `json:"cost"`
	MaxInFlight int               `json:"max_in_flight"`
	Metadata    map[string]string `json:"metadata"`
	OwnErrors   []ownError        `json:"own_error"`
	Source      string            `json:"source"`
	Draining    bool              `json:"draining"`
	State       string            `json:"state"`
	InFlight    int64             `json:"in_flight"`
	Uses        uint64            `json:"uses"`
	LastUsed    *time.Time        `json:"last_used"`
	SuccessRate float64           `json:"success_rate"`
	Samples     int               `json:"samples"`
	AvgLatency  float64           `json:"avg_latency"`
}

// ownError describes an error page of a proxy's own; see upstream.OwnError.
type ownError struct {
	Status int    `json:"status,omitempty"`
	Header string `json:"header,omitempty"`
	Body   string `json:"body,omitempty"`
}

func proxyOf(u *upstream.Upstream) proxyView {
	spec, st := u.Spec(), u.Stats()
	v := proxyView{
		ID: u.ID(), URL: spec.Address.Redacted(), Region: spec.Region, Weight: spec.Weight, Cost: spec.Cost, MaxInFlight: spec.MaxInFlight,
		Metadata: spec.Metadata, Source: spec.Source, Draining: u.Draining(), State: u.Breaker().State().String(), InFlight: st.InFlight,
		Uses: st.Uses, SuccessRate: st.SuccessRate, Samples: st.Samples, AvgLatency: st.LatencyMean.Seconds(),
	}
	v.OwnErrors = make([]ownError, len(spec.OwnErrors))
	for i, rule := range spec.OwnErrors {
		v.OwnErrors[i] = ownError(rule)
	}
	if v.Metadata == nil {
		v.Metadata = map[string]string{}
	}
	if !st.LastUsed.IsZero() {
		at := st.LastUsed.UTC()
		v.LastUsed = &at
	}
	return v
}

func (s *Server) listProxies(c *fiber.Ctx) error {
	out := []proxyView{}
	for _, u := range sorted(s.Engine.Pool().Snapshot()) {
		out = append(out, proxyOf(u))
	}
	return s.send(c, fiber.Map{"proxies": out})
}

func (s *Server) getProxy(c *fiber.Ctx) error {
	u, err := s.proxy(c)
	if err != nil {
		return err
	}
	return s.send(c, proxyOf(u))
}

// proxyInput is a proxy to add, or the changes of one.
type proxyInput struct {
	ID          *string            `json:"id"`
	URL         *string            `json:"url"`
	Region      *string            `json:"region"`
	Weight      *float64           `json:"weight"`
	Cost        *float64           `json:"cost"`
	MaxInFlight *int               `json:"max_in_flight"`
	Metadata    *map[string]string `json:"metadata"`
	OwnErrors   *[]ownError        `json:"own_error"` // replaces the rules
}

// over puts what p says over a spec.
func (p *proxyInput) over(spec *upstream.Spec) error {
	if p.URL != nil {
		a, err := upstream.ParseAddress(*p.URL)
		if err != nil {
			return refuse(400, "invalid_field", "url: "+err.Error(), fiber.Map{"field": "url"})
		}
		if a.Masked() {
			return refuse(400, "invalid_field", "url: *** stands for credentials that are not shown; leave url out to keep them, or give them", fiber.Map{"field": "url"})
		}
		spec.Address = a
	}
	if p.ID != nil {
		if *p.ID == "" {
			return refuse(400, "invalid_field", "id is empty", fiber.Map{"field": "id"})
		}
		spec.ID = *p.ID
	}
	if p.Weight != nil && *p.Weight <= 0 {
		return refuse(400, "invalid_field", "weight must be above 0", fiber.Map{"field": "weight"})
	}
	set(&spec.Region, p.Region)
	set(&spec.Weight, p.Weight)
	set(&spec.Cost, p.Cost)
	set(&spec.MaxInFlight, p.MaxInFlight)
	set(&spec.Metadata, p.Metadata)
	if p.OwnErrors != nil {
		spec.OwnErrors = make([]upstream.OwnError, len(*p.OwnErrors))
		for i, rule := range *p.OwnErrors {
			spec.OwnErrors[i] = upstream.OwnError(rule)
		}
	}
	return nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// addProxies takes one proxy, or {"proxies": [...]}: all of them or none.
func (s *Server) addProxies(c *fiber.Ctx) error {
	var many struct {
		Proxies []proxyInput `json:"proxies"`
	}
	one := false
	var peek map[string]json.RawMessage
	if json.Unmarshal(c.Body(), &peek) == nil {
		_, list := peek["proxies"]
		one = !list
	}
	if one {
		many.Proxies = make([]proxyInput, 1)
		if err := decode(c, &many.Proxies[0]); err != nil {
			return err
		}
	} else if err := decode(c, &many); err != nil {
		return err
	}
	if len(many.Proxies) == 0 {
		return refuse(400, "invalid_field", "proxies is empty", fiber.Map{"field": "proxies"})
	}
	specs := make([]upstream.Spec, len(many.Proxies))
	for i := range many.Proxies {
		specs[i].Source = upstream.SourceAPI
		err := many.Proxies[i].over(&specs[i])
		if err == nil {
			err = specError(upstream.CheckSpec(&specs[i]))
		}
		if err != nil && !one {
			return inList(i, err)
		}
		if err != nil {
			return err
		}
	}
	added, err := s.Engine.Pool().Add(specs)
	if err != nil {
		return specError(err)
	}
	out := make([]proxyView, len(added))
	for i, u := range added {
		out[i] = proxyOf(u)
	}
	c.Status(201)
	if one {
		return s.send(c, out[0])
	}
	return s.send(c, fiber.Map{"proxies": out})
}

// inList places what is wrong with one of several proxies.
func inList(i int, err error) error {
	p, ok := err.(*problem)
	if !ok {
		return err
	}
	place := fmt.Sprintf("proxies[%d]", i)
	message := place + ": " + p.body.Message
	if details, ok := p.body.Details.(fiber.Map); ok {
		place += fmt.Sprintf(".%v", details["field"])
	}
	return refuse(p.status, p.body.Error, message, fiber.Map{"field": place})
}

func specError(err error) error {
	var field *upstream.SpecError
	switch {
	case errors.As(err, &field):
		return refuse(400, "invalid_field", field.Msg, fiber.Map{"field": field.Field})
	case errors.Is(err, core.ErrConflict), errors.Is(err, upstream.ErrDraining):
		return refuse(409, "conflict", err.Error(), nil)
	case errors.Is(err, upstream.ErrSpec) && strings.Contains(err.Error(), "used twice"):
		return refuse(409, "conflict", err.Error(), nil)
	case errors.Is(err, upstream.ErrSpec):
		return refuse(400, "invalid_field", err.Error(), nil)
	}
	return err
}

func (s *Server) patchProxy(c *fiber.Ctx) error {
	u, err := s.proxy(c)
	if err != nil {
		return err
	}
	var in proxyInput
	if err := decode(c, &in); err != nil {
		return err
	}
	if in.ID != nil && *in.ID != u.ID() {
		return refuse(400, "invalid_field", "id cannot be changed", fiber.Map{"field": "id"})
	}
	in.ID = nil
	u, err = s.Engine.Pool().Update(u.ID(), in.over)
	if err != nil {
		return specError(err)
	}
	return s.send(c, proxyOf(u))
}

// deleteProxy removes a proxy: with drain=true it stays listed until its last
// request has ended.
func (s *Server) deleteProxy(c *fiber.Ctx) error {
	u, err := s.proxy(c)
	if err != nil {
		return err
	}
	drain := false
	if q, given := query(c, "drain"); given {
		if drain, err = strconv.ParseBool(q); err != nil {
			return refuse(400, "invalid_field", "drain must be true or false", fiber.Map{"field": "drain"})
		}
	}
	if err := s.Engine.Pool().Remove(u.ID(), drain); err != nil {
		return err
	}
	return c.SendStatus(204)
}

func (s *Server) ready(c *fiber.Ctx) error {
	if s.Engine.Draining() {
		return refuse(503, "not_ready", "the gateway is shutting down", nil)
	}
	for _, u := range s.Engine.Pool().Snapshot().All {
		if u.Breaker().State() != core.Open && !u.Draining() {
			return s.send(c, fiber.Map{"status": "ready"})
		}
	}
	return refuse(503, "not_ready", "no proxy takes traffic", nil)
}

func (s *Server) getConfig(c *fiber.Ctx) error {
	return s.send(c, struct {
		Running
		PolicySource string `json:"policy_source"`
	}{s.Running(), s.Engine.Policies().View().Source})
}

func (s *Server) postReload(c *fiber.Ctx) error {
	status := s.Reload()
	if !status.OK {
		return refuse(422, "invalid_config", "the configuration was not reloaded; the running one stays", status)
	}
	return s.send(c, status)
}

func (s *Server) listRequests(c *fiber.Ctx) error {
	limit := 200
	if q, given := query(c, "limit"); given {
		n, err := strconv.Atoi(q)
		if err != nil || n < 1 || n > 10_000 {
			return refuse(400, "invalid_field", "limit must be an integer from 1 to 10000", fiber.Map{"field": "limit"})
		}
		limit = n
	}
	state, given := query(c, "state")
	if given && !slices.Contains(metrics.States(), state) {
		return refuse(400, "invalid_field", "state must be one of "+strings.Join(metrics.States(), ", "), fiber.Map{"field": "state"})
	}
	return s.send(c, fiber.Map{"requests": s.Engine.Tracker().List(state, limit)})
}

func (s *Server) getRequest(c *fiber.Ctx) error {
	id, err := param(c, "id")
	if err != nil {
		return err
	}
	r, ok := s.Engine.Tracker().Get(id)
	if !ok {
		return refuse(404, "not_found", fmt.Sprintf("no request %q runs or is among the latest", clip(id)), nil)
	}
	return s.send(c, r)
}
