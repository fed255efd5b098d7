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

	"github.com/whirlpool-proxy/whirlpool/core/ban"
	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// proxyHandler serves the endpoints under /proxies.
type proxyHandler struct {
	pool         Pool
	metrics      Metrics
	lists        *poolLists
	changes      Changes
	bannedUntil  func(*upstream.Upstream) (until time.Duration, ok bool) // bans.BannedUntil
	avoidedPairs func() []ban.Pair                                       // bans.Avoided
}

func (h *proxyHandler) routes(r fiber.Router) {
	r.Get("/proxies", h.list)
	r.Post("/proxies", h.add)
	r.Get("/proxies/:id", h.get)
	r.Patch("/proxies/:id", h.change)
	r.Delete("/proxies/:id", h.remove)
	r.Post("/proxies/:id/restore", h.restore)
}

// proxyByID returns the proxy that the path names.
func proxyByID(c *fiber.Ctx, pool Pool) (*upstream.Upstream, error) {
	id, err := pathParam(c, "id")
	if err != nil {
		return nil, err
	}
	snapshot := pool.Snapshot()
	u := snapshot.Get(id)
	if u == nil {
		return nil, notFound("there is no proxy " + strconv.Quote(clipText(id)) + similarID(id, snapshot.All))
	}
	return u, nil
}

// maxSimilar is the maximum number of proxies whose ids similarID compares, because a comparison takes long.
const maxSimilar = 1000

// similarID returns "; did you mean X?" if there is a proxy with a similar id X. Otherwise it returns "". An id with
// other digits is not similar: p2, for example, is not a misspelling of p1.
func similarID(id string, proxies []*upstream.Upstream) string {
	if len(proxies) > maxSimilar {
		return ""
	}
	digits := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r < '0' || r > '9' {
				return -1
			}
			return r
		}, s)
	}
	var ids []string
	for _, u := range proxies {
		if digits(u.ID()) == digits(id) {
			ids = append(ids, u.ID())
		}
	}
	return strict.DidYouMean(id, ids)
}

// proxyView is the JSON of one proxy.
type proxyView struct {
	ID          string   `json:"id"`
	URL         string   `json:"url"` // without credentials
	Region      string   `json:"region"`
	Tags        []string `json:"tags,omitempty"`
	Weight      float64  `json:"weight"`
	Cost        float64  `json:"cost"`
	MaxInFlight int      `json:"max_in_flight"`
	limitsView
	costView
	Auth         string            `json:"auth,omitempty"`
	Reuse        bool              `json:"reuse"`
	Metadata     map[string]string `json:"metadata"`
	OwnErrors    []ownError        `json:"own_error"`
	Source       string            `json:"source"`
	Draining     bool              `json:"draining"`
	State        string            `json:"state"`
	Unreached    bool              `json:"unreached"` // the last check failed, and the proxy has never served a request
	InFlight     int64             `json:"in_flight"`
	ShortTunnels uint64            `json:"short_tunnels"`
	Uses         uint64            `json:"uses"`
	LastUsed     *time.Time        `json:"last_used"`
	SuccessRate  float64           `json:"success_rate"`
	Samples      int               `json:"samples"`
	AvgLatency   float64           `json:"avg_latency"` // s
	Abilities    abilitiesView     `json:"abilities"`
	LastCheck    *checkView        `json:"last_check"` // null without health checks
	ExitAddress  string            `json:"exit_address"`
	BannedUntil  *time.Time        `json:"banned_until,omitempty"` // set only if the proxy is banned
}

// ownError is the JSON of a rule that recognizes error pages of the proxy itself.
type ownError struct {
	Status int    `json:"status,omitempty"`
	Header string `json:"header,omitempty"`
	Body   string `json:"body,omitempty"`
}

func (h *proxyHandler) view(u *upstream.Upstream) proxyView {
	spec, stats := u.Spec(), u.Stats()
	extras := spec.Extra()
	v := proxyView{
		ID: u.ID(), URL: spec.Address.Redacted(), Region: u.Region(), Tags: spec.Tags,
		Weight: spec.Weight, Cost: spec.Cost, MaxInFlight: extras.MaxInFlight, limitsView: limitsOf(u),
		costView: costOf(spec),
		Auth:     extras.Auth, Reuse: !extras.NoReuse, Metadata: extras.Metadata,
		OwnErrors: make([]ownError, len(extras.OwnErrors)),
		Source:    spec.Source, Draining: u.Draining(), State: u.Breaker().State().String(), Unreached: u.IsUnreached(),
		InFlight: stats.InFlight, ShortTunnels: u.ShortTunnels(),
		Uses: stats.Uses, SuccessRate: stats.SuccessRate, Samples: stats.Samples,
		AvgLatency: stats.LatencyMean.Seconds(),
	}
	if until, banned := h.bannedUntil(u); banned {
		at := timeAt(h.pool, until)
		v.BannedUntil = &at
	}
	for i, rule := range extras.OwnErrors {
		v.OwnErrors[i] = ownError(rule)
	}
	if v.Metadata == nil {
		v.Metadata = map[string]string{}
	}
	if !stats.LastUsed.IsZero() {
		at := stats.LastUsed.UTC().Round(timePrecision)
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
	proxies, fields, err := h.lists.proxiesOfQuery(c)
	if err != nil {
		return err
	}
	views, failing := make([]listedProxyView, len(proxies)), h.lists.findFailing()
	for i, u := range proxies {
		views[i] = listedProxyView{h.view(u), h.lists.failureOf(u, failing)}
	}
	return send(c, struct {
		Proxies []listedProxyView `json:"proxies"`
		*pageView
	}{views, fields})
}

// listedProxyView is the JSON of a proxy in a list.
type listedProxyView struct {
	proxyView
	Failure *failureView `json:"failure,omitempty"` // set only if the proxy is failing
}

func (h *proxyHandler) get(c *fiber.Ctx) error {
	u, reasons, err := proxyWithReasons(c, h.pool, h.metrics)
	if err != nil {
		return err
	}
	avoided := viewsOfAvoided(h.pool, h.avoidedPairs(), func(p *ban.Pair) bool { return p.ProxyID == u.ID() })
	return send(c, struct {
		proxyView
		Avoided []banView    `json:"avoided,omitempty"`
		Failure *failureView `json:"failure,omitempty"`
		reasonsView
	}{h.view(u), avoided, h.lists.failureOf(u, h.lists.findFailing()), reasons})
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

func (p *proxyInput) apply(spec *upstream.Spec) (err error) {
	if p.URL != nil {
		if err := applyURL(spec, *p.URL); err != nil {
			return badField("url", "url: "+err.Error())
		}
	}
	if p.ID != nil && *p.ID == "" {
		return badField("id", "id is empty")
	}
	if p.Weight != nil && *p.Weight <= 0 { // a weight of 0 in a Spec stands for the default
		return badField("weight", "weight must be above 0")
	}
	setIfGiven(&spec.ID, p.ID)
	setIfGiven(&spec.Region, p.Region)
	setIfGiven(&spec.Tags, p.Tags)
	setIfGiven(&spec.Weight, p.Weight)
	setIfGiven(&spec.Cost, p.Cost)
	setIfGiven(&spec.Tier, p.Tier)
	spec.ChangeExtras(func(e *upstream.Extras) { err = p.applyExtras(e) })
	return err
}

// applyURL sets the address of a proxy to that in text, which may have any form of a line that --proxy takes. If the
// text has no scheme, the proxy keeps the scheme that it has; a new proxy gets http. Options in the text are accepted
// only for a new proxy.
func applyURL(spec *upstream.Spec, text string) error {
	a, err := upstream.ParseAddress(text)
	if err == nil {
		spec.Address = a
	} else {
		scheme := upstream.HTTP
		if present := spec.Address.Scheme; present != "" && present != upstream.Direct {
			scheme = present
		}
		line, lineErr := proxylist.ParseLineAs(text, scheme)
		isNew, hasOptions := spec.Address == (upstream.Address{}), strings.Contains(proxylist.FormatLine(&line), "#")
		switch {
		case lineErr != nil && strings.Contains(text, "://"):
			return err
		case lineErr != nil:
			return lineErr
		case line.Extra().TLS != nil:
			return errTLSOption
		case hasOptions && !isNew:
			return errors.New("it has options; write them as fields")
		case isNew:
			line.Source = spec.Source
			*spec = line
		}
		spec.Address = line.Address
	}
	if spec.Address.HasMaskedCredentials() {
		return errors.New("*** stands for hidden credentials; omit url to keep them, or write them out")
	}
	return nil
}

func (p *proxyInput) applyExtras(e *upstream.Extras) error {
	setIfGiven(&e.MaxInFlight, p.MaxInFlight)
	setIfGiven(&e.Rate, p.Rate)
	setIfGiven(&e.BytesPerDay, p.BytesPerDay)
	setIfGiven(&e.Vendor, p.Vendor)
	setIfGiven(&e.Price.Request, p.CostRequest)
	setIfGiven(&e.Price.GB, p.CostGB)
	if p.MinInterval != nil {
		d, err := time.ParseDuration(*p.MinInterval)
		if err != nil {
			return badField("min_interval", `min_interval must be a duration such as "500ms"`)
		}
		e.MinInterval = d
	}
	setIfGiven(&e.Auth, p.Auth)
	if p.Reuse != nil {
		e.NoReuse = !*p.Reuse
	}
	setIfGiven(&e.Metadata, p.Metadata)
	if p.OwnErrors != nil {
		e.OwnErrors = make([]upstream.OwnError, len(*p.OwnErrors))
		for i, rule := range *p.OwnErrors {
			e.OwnErrors[i] = upstream.OwnError(rule)
		}
	}
	return nil
}

func setIfGiven[T any](field *T, value *T) {
	if value != nil {
		*field = *value
	}
}

// add serves POST /proxies. The body has one proxy, or the list {"proxies": [...]}, or a text with one proxy per line.
// If one proxy is invalid, none is added.
func (h *proxyHandler) add(c *fiber.Ctx) error {
	specs, single, persist, err := readProxies(c)
	if err != nil {
		return err
	}
	added, err := h.changes.AddProxies(specs, persist)
	if err != nil {
		return proxyProblem(err)
	}
	setChangedNames(c, "proxy", idsOf(added)...)
	c.Status(fiber.StatusCreated)
	if single {
		return send(c, h.view(added[0]))
	}
	return send(c, fiber.Map{"proxies": h.views(added)})
}

// readProxies reads the proxies of a body. It also returns whether the body is a JSON object of one proxy, and whether
// the proxies stay after a restart: they do unless the field or the query parameter "persist" is false.
func readProxies(c *fiber.Ctx) (specs []upstream.Spec, single, persist bool, err error) {
	if mediaType(c) == fiber.MIMETextPlain && !isObject(c.Body()) {
		if persist, err = queryBool(c, persistField, true); err == nil {
			specs, err = readProxyLines(c)
		}
		return specs, false, persist, err
	}
	persistInQuery, err := queryBool(c, persistField, true)
	if err != nil {
		return nil, false, false, err
	}
	list, single, persist, err := decodeProxies(c)
	persist = persist && persistInQuery
	if err != nil {
		return nil, false, false, err
	}
	specs = make([]upstream.Spec, len(list))
	for i := range list {
		specs[i].Source = upstream.SourceAPI
		err := list[i].apply(&specs[i])
		if err == nil {
			err = proxyProblem(upstream.CheckSpec(&specs[i]))
		}
		if err != nil && !single {
			err = addIndex(i, err)
		}
		if err != nil {
			return nil, false, false, err
		}
	}
	return specs, single, persist, nil
}

// isObject reports whether a body looks like a JSON object or is empty. readProxies reads such a body as JSON even if
// its type is text/plain, because the client has probably forgotten the type application/json.
func isObject(body []byte) bool {
	text := bytes.TrimSpace(body)
	return len(text) == 0 || text[0] == '{'
}

// readProxyLines reads a body with one proxy per line, in any form that the flag --proxy accepts.
func readProxyLines(c *fiber.Ctx) ([]upstream.Spec, error) {
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
		if err == nil && spec.Extra().TLS != nil {
			err = errTLSOption
		}
		if err == nil && spec.Address.HasMaskedCredentials() {
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

// decodeProxies reads a JSON body with one proxy or a list of proxies. It also returns the value of the field
// "persist", like decodeChange.
func decodeProxies(c *fiber.Ctx) (list []proxyInput, single, persist bool, err error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(c.Body(), &fields) == nil {
		_, isList := fields["proxies"]
		single = !isList
	}
	if single {
		list = make([]proxyInput, 1)
		persist, err = decodeChange(c, &list[0])
		return list, true, persist, err
	}
	var input struct {
		Proxies []proxyInput `json:"proxies"`
	}
	if persist, err = decodeChange(c, &input); err != nil {
		return nil, false, false, err
	}
	if len(input.Proxies) == 0 {
		return nil, false, false, badField("proxies", "proxies is empty")
	}
	return input.Proxies, false, persist, nil
}

// addIndex adds the index of a proxy to the message and the field of an error about this proxy.
func addIndex(i int, err error) error {
	var p *problem
	if !errors.As(err, &p) {
		return err
	}
	place := fmt.Sprintf("proxies[%d]", i)
	message := place + ": " + p.body.Message
	if d, ok := p.body.Details.(fieldDetails); ok {
		place += "." + d.Field
	}
	return &problem{status: p.status, body: Error{p.body.Error, message, fieldDetails{Field: place}}}
}

// proxyProblem returns the problem for an error of the pool.
func proxyProblem(err error) error {
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
	var input proxyInput
	persist, err := decodeChange(c, &input)
	if err != nil {
		return err
	}
	if input.ID != nil && *input.ID != u.ID() {
		return badField("id", "id cannot be changed")
	}
	input.ID = nil
	if u, err = h.changes.ChangeProxy(u.ID(), input.apply, persist); err != nil {
		return proxyProblem(err)
	}
	return send(c, h.view(u))
}

func idsOf(list []*upstream.Upstream) []string {
	ids := make([]string, len(list))
	for i, u := range list {
		ids[i] = u.ID()
	}
	return ids
}
