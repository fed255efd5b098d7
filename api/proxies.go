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

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Pool is the pool of proxies.
type Pool interface {
	Snapshot() *upstream.Snapshot
	// At converts a time counted from the pool's epoch to a time of day.
	At(elapsed time.Duration) time.Time
}

var _ Pool = (*upstream.Pool)(nil)

// proxyHandler serves the endpoints under /proxies.
type proxyHandler struct {
	pool    Pool
	changes Changes
	banned  func(*upstream.Upstream) (until time.Duration, ok bool) // bans.BannedUntil
}

func (h *proxyHandler) routes(r fiber.Router) {
	r.Get("/proxies", h.list)
	r.Post("/proxies", h.add)
	r.Get("/proxies/:id", h.get)
	r.Patch("/proxies/:id", h.change)
	r.Delete("/proxies/:id", h.remove)
}

// proxyByID returns the proxy whose id is in the path.
func proxyByID(c *fiber.Ctx, pool Pool) (*upstream.Upstream, error) {
	id, err := param(c, "id")
	if err != nil {
		return nil, err
	}
	u := pool.Snapshot().Get(id)
	if u == nil {
		return nil, notFound("there is no proxy " + strconv.Quote(clip(id)))
	}
	return u, nil
}

func sortedByID(s *upstream.Snapshot) []*upstream.Upstream {
	all := slices.Clone(s.All)
	slices.SortFunc(all, func(a, b *upstream.Upstream) int { return strings.Compare(a.ID(), b.ID()) })
	return all
}

// proxyView is the JSON of one proxy. Its URL is without credentials.
type proxyView struct {
	ID          string            `json:"id"`
	URL         string            `json:"url"`
	Region      string            `json:"region"`
	Weight      float64           `json:"weight"`
	Cost        float64           `json:"cost"`
	MaxInFlight int               `json:"max_in_flight"`
	Reuse       bool              `json:"reuse"`
	Metadata    map[string]string `json:"metadata"`
	OwnErrors   []ownError        `json:"own_error"`
	Source      string            `json:"source"`
	Draining    bool              `json:"draining"`
	State       string            `json:"state"`
	Unreached   bool              `json:"unreached"` // the last check failed, and the proxy has never served a request
	InFlight    int64             `json:"in_flight"`
	Short       uint64            `json:"short_tunnels"`
	Uses        uint64            `json:"uses"`
	LastUsed    *time.Time        `json:"last_used"`
	SuccessRate float64           `json:"success_rate"`
	Samples     int               `json:"samples"`
	AvgLatency  float64           `json:"avg_latency"` // s
	Abilities   abilitiesView     `json:"abilities"`
	LastCheck   *checkView        `json:"last_check"` // null without health checks
	ExitAddress string            `json:"exit_address"`
	BannedUntil *time.Time        `json:"banned_until,omitempty"` // only of a banned proxy
}

// ownError is the JSON of a rule that recognizes error pages of the proxy itself.
type ownError struct {
	Status int    `json:"status,omitempty"`
	Header string `json:"header,omitempty"`
	Body   string `json:"body,omitempty"`
}

func (h *proxyHandler) view(u *upstream.Upstream) proxyView {
	spec, st := u.Spec(), u.Stats()
	v := proxyView{
		ID: u.ID(), URL: spec.Address.Redacted(), Region: spec.Region, Weight: spec.Weight, Cost: spec.Cost,
		MaxInFlight: spec.MaxInFlight, Reuse: !spec.NoReuse, Metadata: spec.Metadata,
		OwnErrors: make([]ownError, len(spec.OwnErrors)),
		Source:    spec.Source, Draining: u.Draining(), State: u.Breaker().State().String(), Unreached: u.Unreached(),
		InFlight: st.InFlight, Short: u.ShortTunnels(),
		Uses: st.Uses, SuccessRate: st.SuccessRate, Samples: st.Samples, AvgLatency: st.LatencyMean.Seconds(),
	}
	if until, banned := h.banned(u); banned {
		at := h.pool.At(until).UTC()
		v.BannedUntil = &at
	}
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
	v.Abilities, v.LastCheck, v.ExitAddress = viewOfAbilities(h.pool, u), viewOfCheck(h.pool, u), exitAddress(u)
	return v
}

func (h *proxyHandler) views(all []*upstream.Upstream) []proxyView {
	out := make([]proxyView, len(all))
	for i, u := range all {
		out[i] = h.view(u)
	}
	return out
}

func (h *proxyHandler) list(c *fiber.Ctx) error {
	return send(c, fiber.Map{"proxies": h.views(sortedByID(h.pool.Snapshot()))})
}

func (h *proxyHandler) get(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	return send(c, h.view(u))
}

// proxyInput is the JSON of a new proxy, or of changes to a proxy. Absent fields are nil.
type proxyInput struct {
	ID          *string            `json:"id"`
	URL         *string            `json:"url"`
	Region      *string            `json:"region"`
	Weight      *float64           `json:"weight"`
	Cost        *float64           `json:"cost"`
	MaxInFlight *int               `json:"max_in_flight"`
	Reuse       *bool              `json:"reuse"`
	Metadata    *map[string]string `json:"metadata"`
	OwnErrors   *[]ownError        `json:"own_error"` // replaces all rules
}

// apply changes spec: it sets the fields that p has.
func (p *proxyInput) apply(spec *upstream.Spec) error {
	if p.URL != nil {
		a, err := upstream.ParseAddress(*p.URL)
		if err != nil {
			return badField("url", "url: "+err.Error())
		}
		if a.Masked() {
			return badField("url", "url: *** stands for hidden credentials; omit url to keep them, or write them out")
		}
		spec.Address = a
	}
	if p.ID != nil && *p.ID == "" {
		return badField("id", "id is empty")
	}
	if p.Weight != nil && *p.Weight <= 0 { // in a Spec, a weight of 0 stands for the default
		return badField("weight", "weight must be above 0")
	}
	set(&spec.ID, p.ID)
	set(&spec.Region, p.Region)
	set(&spec.Weight, p.Weight)
	set(&spec.Cost, p.Cost)
	set(&spec.MaxInFlight, p.MaxInFlight)
	if p.Reuse != nil {
		spec.NoReuse = !*p.Reuse
	}
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

// add serves POST /proxies. It adds one proxy, or the list {"proxies": [...]}: all proxies of the
// list or none.
func (h *proxyHandler) add(c *fiber.Ctx) error {
	list, one, persist, err := decodeProxies(c)
	if err != nil {
		return err
	}
	specs := make([]upstream.Spec, len(list))
	for i := range list {
		specs[i].Source = upstream.SourceAPI
		err := list[i].apply(&specs[i])
		if err == nil {
			err = proxyError(upstream.CheckSpec(&specs[i]))
		}
		if err != nil && !one {
			err = atIndex(i, err)
		}
		if err != nil {
			return err
		}
	}
	added, err := h.changes.AddProxies(specs, persist)
	if err != nil {
		return proxyError(err)
	}
	c.Status(fiber.StatusCreated)
	if one {
		return send(c, h.view(added[0]))
	}
	return send(c, fiber.Map{"proxies": h.views(added)})
}

// decodeProxies reads one proxy or a list. one is true if the body is a single proxy. persist is as
// in decodeChange.
func decodeProxies(c *fiber.Ctx) (list []proxyInput, one, persist bool, err error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(c.Body(), &fields) == nil {
		_, many := fields["proxies"]
		one = !many
	}
	if one {
		list = make([]proxyInput, 1)
		persist, err = decodeChange(c, &list[0])
		return list, true, persist, err
	}
	var in struct {
		Proxies []proxyInput `json:"proxies"`
	}
	if persist, err = decodeChange(c, &in); err != nil {
		return nil, false, false, err
	}
	if len(in.Proxies) == 0 {
		return nil, false, false, badField("proxies", "proxies is empty")
	}
	return in.Proxies, false, persist, nil
}

// atIndex adds the index of a proxy in the list of the input to a problem.
func atIndex(i int, err error) error {
	var p *problem
	if !errors.As(err, &p) {
		return err
	}
	place := fmt.Sprintf("proxies[%d]", i)
	message := place + ": " + p.body.Message
	if d, ok := p.body.Details.(fieldDetails); ok {
		place += "." + d.Field
	}
	return &problem{p.status, Error{p.body.Error, message, fieldDetails{Field: place}}}
}

// proxyError returns the problem for an error of the pool.
func proxyError(err error) error {
	var field *upstream.SpecError
	var duplicate *upstream.DuplicateError
	switch {
	case errors.As(err, &field):
		return badField(field.Field, field.Msg)
	case errors.As(err, &duplicate), errors.Is(err, upstream.ErrDraining):
		return conflict(err.Error())
	case errors.Is(err, upstream.ErrSpec):
		return newProblem(fiber.StatusBadRequest, "invalid_field", err.Error())
	}
	return err
}

func (h *proxyHandler) change(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	var in proxyInput
	persist, err := decodeChange(c, &in)
	if err != nil {
		return err
	}
	if in.ID != nil && *in.ID != u.ID() {
		return badField("id", "id cannot be changed")
	}
	in.ID = nil
	if u, err = h.changes.ChangeProxy(u.ID(), in.apply, persist); err != nil {
		return proxyError(err)
	}
	return send(c, h.view(u))
}

// remove serves DELETE /proxies/:id. With drain=true in the query, the proxy stays in the list until its last
// attempt has ended.
func (h *proxyHandler) remove(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	drain, err := queryBool(c, "drain", false)
	if err != nil {
		return err
	}
	persist, err := queryBool(c, persistField, true)
	if err != nil {
		return err
	}
	if err := h.changes.RemoveProxy(u.ID(), drain, persist); err != nil {
		return err
	}
	return c.SendStatus(fiber.StatusNoContent)
}
