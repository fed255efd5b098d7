package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/rest"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// proxyHandler serves the endpoints under /proxies.
type proxyHandler struct {
	pool    Pool
	metrics Metrics
	lists   *poolLists
	changes Changes
	banned  func(*upstream.Upstream) (until time.Duration, ok bool) // bans.BannedUntil
	avoided func() []rest.Pair                                      // bans.Avoided
}

func (h *proxyHandler) routes(r fiber.Router) {
	r.Get("/proxies", h.list)
	r.Post("/proxies", h.add)
	r.Get("/proxies/:id", h.get)
	r.Patch("/proxies/:id", h.change)
	r.Delete("/proxies/:id", h.remove)
	r.Post("/proxies/:id/restore", h.restore)
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

// proxyView is the JSON of one proxy. Its URL is without credentials.
type proxyView struct {
	ID          string   `json:"id"`
	URL         string   `json:"url"`
	Region      string   `json:"region"`
	Tags        []string `json:"tags,omitempty"`
	Weight      float64  `json:"weight"`
	Cost        float64  `json:"cost"`
	MaxInFlight int      `json:"max_in_flight"`
	limitsView
	costView
	Auth        string            `json:"auth,omitempty"`
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
		ID: u.ID(), URL: spec.Address.Redacted(), Region: u.Region(), Tags: spec.Tags,
		Weight: spec.Weight, Cost: spec.Cost, MaxInFlight: spec.MaxInFlight, limitsView: limitsOf(u),
		costView: costOf(spec),
		Auth:     spec.Auth, Reuse: !spec.NoReuse, Metadata: spec.Metadata,
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
	proxies, rest, err := h.lists.page(c)
	if err != nil {
		return err
	}
	return send(c, struct {
		Proxies []proxyView `json:"proxies"`
		*pageView
	}{h.views(proxies), rest})
}

func (h *proxyHandler) get(c *fiber.Ctx) error {
	u, err := proxyByID(c, h.pool)
	if err != nil {
		return err
	}
	reasons, err := reasonsOf(c, h.metrics, u)
	if err != nil {
		return err
	}
	avoiding := avoided(h.pool, h.avoided(), func(p *rest.Pair) bool { return p.ProxyID == u.ID() })
	return send(c, struct {
		proxyView
		Avoided []banView `json:"avoided,omitempty"`
		reasonsView
	}{h.view(u), avoiding, reasons})
}

// proxyInput is the JSON of a new proxy, or of changes to a proxy. Absent fields are nil.
type proxyInput struct {
	ID          *string            `json:"id"`
	URL         *string            `json:"url"`
	Region      *string            `json:"region"`
	Tags        *[]string          `json:"tags"` // replaces all tags
	Weight      *float64           `json:"weight"`
	Cost        *float64           `json:"cost"`
	MaxInFlight *int               `json:"max_in_flight"`
	Rate        *float64           `json:"rate"`
	MinInterval *string            `json:"min_interval"` // such as "500ms"
	BytesPerDay *int64             `json:"bytes_per_day"`
	Tier        *int               `json:"tier"`
	Vendor      *string            `json:"vendor"`
	CostRequest *float64           `json:"cost_per_request"`
	CostGB      *float64           `json:"cost_per_gb"`
	Auth        *string            `json:"auth"`
	Reuse       *bool              `json:"reuse"`
	Metadata    *map[string]string `json:"metadata"`
	OwnErrors   *[]ownError        `json:"own_error"` // replaces all rules
}

// apply sets the fields of spec for which p has a value.
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
	set(&spec.Tags, p.Tags)
	set(&spec.Weight, p.Weight)
	set(&spec.Cost, p.Cost)
	set(&spec.MaxInFlight, p.MaxInFlight)
	set(&spec.Rate, p.Rate)
	set(&spec.BytesPerDay, p.BytesPerDay)
	set(&spec.Tier, p.Tier)
	set(&spec.Vendor, p.Vendor)
	set(&spec.Price.Request, p.CostRequest)
	set(&spec.Price.GB, p.CostGB)
	if p.MinInterval != nil {
		d, err := time.ParseDuration(*p.MinInterval)
		if err != nil {
			return badField("min_interval", `min_interval must be a duration such as "500ms"`)
		}
		spec.MinInterval = d
	}
	set(&spec.Auth, p.Auth)
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

// add serves POST /proxies. The body has one proxy, or the list {"proxies": [...]}, or a text with one proxy per
// line. add adds all proxies of the body, or none of them if one is invalid.
func (h *proxyHandler) add(c *fiber.Ctx) error {
	specs, one, persist, err := proxiesOf(c)
	if err != nil {
		return err
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

// proxiesOf reads the proxies of a body. The result one is true if the body is a JSON object that is a single proxy.
// The result persist is false if the field or the query parameter persist is false (see persistField).
func proxiesOf(c *fiber.Ctx) (specs []upstream.Spec, one, persist bool, err error) {
	if mediaType(c) == fiber.MIMETextPlain && !isObject(c.Body()) {
		if persist, err = queryBool(c, persistField, true); err == nil {
			specs, err = parseLines(c)
		}
		return specs, false, persist, err
	}
	inQuery, err := queryBool(c, persistField, true)
	if err != nil {
		return nil, false, false, err
	}
	list, one, persist, err := decodeProxies(c)
	persist = persist && inQuery
	if err != nil {
		return nil, false, false, err
	}
	specs = make([]upstream.Spec, len(list))
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
			return nil, false, false, err
		}
	}
	return specs, one, persist, nil
}

// isObject reports whether a body of the type text/plain is empty or may be a JSON object. Such a body is not read as a
// list of proxies, because its client has probably forgotten the media type of JSON, application/json.
func isObject(body []byte) bool {
	text := bytes.TrimSpace(body)
	return len(text) == 0 || text[0] == '{'
}

// parseLines reads a body with one proxy per line, in any form that the flag --proxy accepts. Blank lines and
// comments are skipped.
func parseLines(c *fiber.Ctx) ([]upstream.Spec, error) {
	body := c.Body()
	if len(body) > maxJSON {
		return nil, bodyTooLarge(maxJSON)
	}
	var specs []upstream.Spec
	for i, line := range strings.Split(string(body), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' || strings.HasPrefix(line, "//") {
			continue
		}
		spec, err := proxylist.ParseLine(line)
		if err == nil && spec.TLS != nil {
			err = errors.New("ca_file, insecure, cert and key are options of the configuration only")
		}
		if err == nil && spec.Address.Masked() {
			err = errors.New("*** stands for hidden credentials; write them out")
		}
		if err == nil {
			err = upstream.CheckSpec(&spec)
		}
		if err != nil {
			place := fmt.Sprintf("line %d", i+1)
			return nil, badField(place, place+": "+err.Error())
		}
		spec.Source = upstream.SourceAPI
		specs = append(specs, spec)
	}
	if len(specs) == 0 {
		return nil, badField("line 1", "the text has no proxy; a line is such as http://user:password@host:port")
	}
	return specs, nil
}

// decodeProxies reads a body with one proxy or a list of proxies. The result one is true if the body is a single proxy.
// The result persist is as in decodeChange.
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

// atIndex adds the index i to a problem. The input has a list of proxies, and the proxy with this index has caused the
// problem.
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
