package api

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
)

// The limits of the audit trail.
const (
	maxAudited   = 1000 // entries that are kept without a cluster
	maxChanged   = 20   // changed things that an entry names
	maxAuditText = 400  // maximum length of a path, a query or a name of a changed thing, in bytes
	defaultAudit = 100
)

// auditTrail holds the latest API requests that have made a change. Without a cluster, these are the requests to this
// gateway since its start. In a cluster, these are the requests to all nodes.
type auditTrail struct {
	cluster Cluster // nil without a cluster
	events  *Events
	now     func() time.Time

	mu      sync.Mutex           // guards the fields below
	entries []cluster.AuditEntry // without a cluster; the oldest first
	added   uint64               // number of entries since the start, without a cluster
}

func (a *auditTrail) routes(r fiber.Router) { r.Get("/audit", a.list) }

// changedLocal is the key of Fiber's Locals under which setChangedNames stores the names of the changed things. If a
// handler does not call setChangedNames, entryOf takes the names from the body or the path of the request.
const changedLocal = "changed"

// setChangedNames stores what a request has changed, for its entry in the audit trail. Each name has the form
// KIND/NAME, such as proxy/p1.
func setChangedNames(c *fiber.Ctx, kind string, names ...string) {
	for i := range names {
		names[i] = kind + "/" + names[i]
	}
	c.Locals(changedLocal, names)
}

// entryOf returns the entry of a request that has made a change with the API key of the given name.
func (a *auditTrail) entryOf(c *fiber.Ctx, key string) cluster.AuditEntry {
	names, _ := c.Locals(changedLocal).([]string)
	if names == nil {
		names = changedFields(c)
	}
	if names == nil {
		names = nameOfPath(c)
	}
	path := c.Path()
	if plain, err := url.PathUnescape(path); err == nil {
		path = plain
	}
	e := cluster.AuditEntry{At: a.now(), Key: key, Method: c.Method(), Path: auditText(path),
		Query: auditText(string(c.Context().URI().QueryString())), Total: len(names)}
	for _, name := range names[:min(len(names), maxChanged)] {
		e.Changed = append(e.Changed, auditText(name))
	}
	return e
}

// auditText shortens a text of the client for an entry, and replaces characters that cannot be printed.
func auditText(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, clipTo(s, maxAuditText))
}

// add adds an entry.
func (a *auditTrail) add(e cluster.AuditEntry) {
	if a.cluster != nil {
		a.cluster.Audit(e)
		e.Node = a.cluster.Name()
	} else {
		a.mu.Lock()
		if len(a.entries) == maxAudited {
			a.entries = slices.Delete(a.entries, 0, 1)
		}
		a.entries = append(a.entries, e)
		a.added++
		a.mu.Unlock()
	}
	a.events.Audited(e)
}

// changedFields returns the names of the fields that a PUT or PATCH has changed. The handler has accepted the body, so
// these are names that openapi.yaml lists.
func changedFields(c *fiber.Ctx) []string {
	if c.Method() != fiber.MethodPut && c.Method() != fiber.MethodPatch || !isObject(c.Body()) {
		return nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(c.Body(), &fields) != nil {
		return nil
	}
	delete(fields, persistField)
	return slices.Sorted(maps.Keys(fields))
}

// nameOfPath returns the name of the thing that a request's path identifies, such as proxy/p1; nil if there is none.
func nameOfPath(c *fiber.Ctx) []string {
	route := strings.TrimPrefix(c.Route().Path, "/api/v1")
	kind, parameter := "", "id"
	switch {
	case strings.HasPrefix(route, "/proxies/:id"):
		kind = "proxy"
	case strings.HasPrefix(route, "/circuit-breakers/:id"):
		kind = "breaker"
	case strings.HasPrefix(route, "/plugins/:name"):
		kind, parameter = "upload", "name"
	case strings.HasPrefix(route, "/requests/:id"):
		kind = "request"
	case route == "/retry/policy":
		return []string{"policy"}
	case route == "/state" && c.Query("key") != "":
		return []string{c.Query("key")}
	default:
		return nil
	}
	name, err := pathParam(c, parameter)
	if err != nil {
		return nil
	}
	return []string{kind + "/" + name}
}

// latest returns the entries, the latest first.
func (a *auditTrail) latest() []cluster.AuditEntry {
	if a.cluster != nil {
		return a.cluster.AuditTrail()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	list := slices.Clone(a.entries)
	slices.Reverse(list)
	return list
}

// version returns a number. As long as the number is the same, latest returns the same entries.
func (a *auditTrail) version() uint64 {
	if a.cluster != nil {
		return a.cluster.AuditVersion()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.added
}

// auditView is the JSON of an entry, and of an event of the type change.
type auditView struct {
	At      time.Time `json:"at"`
	Key     string    `json:"key"` // name of the API key; "" if the API requires none
	Method  string    `json:"method"`
	Path    string    `json:"path"`
	Query   string    `json:"query"`
	Node    string    `json:"node"`          // "" without a cluster
	Changed []string  `json:"changed"`       // the first changed things, or the changed fields
	Total   int       `json:"changed_total"` // number of all changed things; 0 if the entry names none
}

func viewOfAudit(e *cluster.AuditEntry) auditView {
	return auditView{e.At.UTC(), e.Key, e.Method, e.Path, e.Query, e.Node, append([]string{}, e.Changed...), e.Total}
}

// list serves GET /audit: the latest changes come first.
func (a *auditTrail) list(c *fiber.Ctx) error {
	p, err := parsePage(c, auditOrders, nil, maxPage, defaultAudit)
	if err != nil {
		return err
	}
	entries := a.latest()
	for i := range entries {
		e := &entries[i]
		if containsText(p.text, e.Node, e.Key, e.Method, e.Path, e.Query, strings.Join(e.Changed, " ")) {
			p.elements = append(p.elements, viewOfAudit(e))
		}
	}
	p.hasTotal = true
	list, rest := p.takePage()
	return send(c, struct {
		Changes []auditView `json:"changes"`
		pageView
	}{append([]auditView{}, list...), *rest})
}

var auditOrders = []order[auditView]{
	numberOrder("at", func(v auditView) float64 { return float64(v.At.UnixMicro()) }),
	textOrder("node", func(v auditView) string { return v.Node }),
	textOrder("key", func(v auditView) string { return v.Key }),
}
