package client

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Config is the configuration in force.
type Config struct {
	Config       map[string]any `json:"config"`  // without secrets
	File         string         `json:"file"`    // path of the configuration file as it was given at the start
	Gateway      string         `json:"gateway"` // address for clients
	Reload       Reload         `json:"reload"`  // result of the last reload
	PolicySource string         `json:"policy_source"`
}

// Reload is the result of a reload of the configuration.
type Reload struct {
	OK      bool             `json:"ok"`
	At      time.Time        `json:"at"`
	Faults  []map[string]any `json:"faults"`
	Restart []string         `json:"restart"` // changed keys that take effect at the next start
}

// Config returns the configuration in force.
func (c *Client) Config(ctx context.Context) (v *Config, err error) {
	return v, c.Do(ctx, "GET", "/config", nil, nil, &v)
}

// Reload makes the gateway read its configuration again. If the configuration has faults, the error is an *Error.
func (c *Client) Reload(ctx context.Context) (v *Reload, err error) {
	return v, c.Do(ctx, "POST", "/config/reload", nil, nil, &v)
}

// Health is the state of the process.
type Health struct {
	Status  string `json:"status"`
	Version string `json:"version"`
	Note    string `json:"note"`
}

// Health reports whether the process runs. It needs no key.
func (c *Client) Health(ctx context.Context) (h *Health, err error) {
	return h, c.Do(ctx, "GET", "/healthz", nil, nil, &h)
}

// Ready reports whether the gateway takes new clients. If it does not, the error is an *Error with the status 503.
func (c *Client) Ready(ctx context.Context) (h *Health, err error) {
	return h, c.Do(ctx, "GET", "/readyz", nil, nil, &h)
}

// OpenAPI returns the description of the API.
func (c *Client) OpenAPI(ctx context.Context) (document json.RawMessage, err error) {
	return document, c.Do(ctx, "GET", "/openapi.json", nil, nil, &document)
}

// State lists the changes that survive a restart.
type State struct {
	Kept    bool             `json:"kept"` // whether there is a state folder
	Dir     string           `json:"dir"`
	Changes []RecordedChange `json:"changes"`
}

// RecordedChange is a change through the API that is still in force after a restart.
type RecordedChange struct {
	Key     string    `json:"key"`
	Change  string    `json:"change"`
	At      time.Time `json:"at"`
	InForce bool      `json:"in_force"`
}

// State returns the recorded changes.
func (c *Client) State(ctx context.Context) (s *State, err error) {
	return s, c.Do(ctx, "GET", "/state", nil, nil, &s)
}

// ClearState deletes the record of one change or, if key is "", of all changes.
func (c *Client) ClearState(ctx context.Context, key string) error {
	q := url.Values{}
	if key != "" {
		q.Set("key", key)
	}
	return c.Do(ctx, "DELETE", "/state", q, nil, nil)
}

// Users has the users of the gateway, with their usage of this day.
type Users struct {
	DayEnds time.Time `json:"day_ends"`
	Users   []User    `json:"users"`
}

// User is a user with its limits and its usage.
type User struct {
	Name           string   `json:"name"`
	InFlight       int      `json:"in_flight"`
	RequestsToday  uint64   `json:"requests_today"`
	BytesToday     uint64   `json:"bytes_today"`
	MaxInFlight    int      `json:"max_in_flight"`
	RequestsPerDay uint64   `json:"requests_per_day"`
	BytesPerDay    uint64   `json:"bytes_per_day"`
	Priority       string   `json:"priority"`
	Override       string   `json:"override"`
	Allow          []string `json:"allow"`
	Deny           []string `json:"deny"`
	Regions        []string `json:"regions"`
}

// Users returns the users.
func (c *Client) Users(ctx context.Context) (u *Users, err error) {
	return u, c.Do(ctx, "GET", "/users", nil, nil, &u)
}

// HostBan is the ban of a proxy for one host.
type HostBan struct {
	ProxyID string    `json:"proxy_id"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

// HostBans lists the host bans, one for each pair of a proxy and a host.
func (c *Client) HostBans(ctx context.Context) ([]HostBan, error) {
	var v struct {
		Bans []HostBan `json:"rests"`
	}
	err := c.Do(ctx, "GET", "/rests", nil, nil, &v)
	return v.Bans, err
}

// TargetBans describes one target: its attempts, and the proxies that get no requests for it.
type TargetBans struct {
	Host    string           `json:"host"`
	Banned  []Ban            `json:"banned"`
	Avoided []map[string]any `json:"avoided"`
	Reasons
}

// Target returns one target, by its host, with its attempts within a window that ends now.
func (c *Client) Target(ctx context.Context, host string, window time.Duration) (t *TargetBans, err error) {
	q := url.Values{"window": {window.String()}}
	return t, c.Do(ctx, "GET", "/targets/"+url.PathEscape(host), q, nil, &t)
}

// Route has the rules that are applied to a request.
type Route struct {
	Request struct {
		Method string `json:"method"`
		Host   string `json:"host"`
		Port   int    `json:"port"`
		Path   string `json:"path"`
		User   string `json:"user"`
	} `json:"request"`
	Way            string           `json:"way"`
	Tag            string           `json:"tag"`
	Region         string           `json:"region"`
	Prefer         bool             `json:"prefer"`
	Policy         *Policy          `json:"policy"`
	AttemptTimeout *Seconds         `json:"attempt_timeout"`
	Scorer         string           `json:"scorer"`
	Intercept      bool             `json:"intercept"`
	Interim        bool             `json:"interim"`
	Rules          []map[string]any `json:"rules"`
}

// Route returns the route of a request; method and user may be "".
func (c *Client) Route(ctx context.Context, target, method, user string) (r *Route, err error) {
	q := url.Values{"url": {target}}
	if method != "" {
		q.Set("method", method)
	}
	if user != "" {
		q.Set("user", user)
	}
	return r, c.Do(ctx, "GET", "/route", q, nil, &r)
}

// ProxyGroup counts the proxies of one region, vendor, reason or state.
type ProxyGroup struct {
	Name     string `json:"name"`
	Proxies  int    `json:"proxies"`
	Failing  int    `json:"failing"`
	Banned   int    `json:"banned"`
	InFlight int    `json:"in_flight"`
	Reason   string `json:"reason"` // the most frequent reason of the failing proxies
}

// ProxyGroups counts the proxies that l selects, in groups with the same region, vendor, reason or state. The parameter
// groupBy names this property.
func (c *Client) ProxyGroups(ctx context.Context, groupBy string, l List) ([]ProxyGroup, error) {
	q := l.Query()
	q.Set("by", groupBy)
	var v struct {
		Groups []ProxyGroup `json:"groups"`
	}
	err := c.Do(ctx, "GET", "/proxy-groups", q, nil, &v)
	return v.Groups, err
}

// ExportProxies returns a text with the proxies that l selects. The format is "list" or "csv".
func (c *Client) ExportProxies(ctx context.Context, format string, l List) (string, error) {
	q := l.Query()
	q.Set("format", format)
	response, err := c.sendBody(ctx, "GET", "/proxy-lists", q, nil, "")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	return string(text), err
}

// ReadList describes how the gateway has read a list of proxies.
type ReadList struct {
	Proxies  int            `json:"proxies"`
	Forms    map[string]int `json:"forms"`
	LeftOut  map[string]int `json:"left_out"`
	Warnings []struct {
		Message string `json:"message"`
		Lines   []int  `json:"lines"`
		Count   int    `json:"count"`
	} `json:"warnings"`
	Examples []string `json:"examples"`
	IDs      []string `json:"ids"`
}

// ImportProxies adds the proxies of a list, in any form that "whirlpool serve --proxies" reads. With dryRun it only
// reports how the gateway reads the list.
func (c *Client) ImportProxies(ctx context.Context, list string, dryRun bool) (r *ReadList, err error) {
	q := url.Values{"dry_run": {strconv.FormatBool(dryRun)}}
	response, err := c.sendBody(ctx, "POST", "/proxy-lists", q, strings.NewReader(list), "text/plain")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return r, c.decodeBody(response, &r)
}

// RestoreProxy undoes the removal of a proxy within ten minutes.
func (c *Client) RestoreProxy(ctx context.Context, id string) (p *Proxy, err error) {
	return p, c.Do(ctx, "POST", "/proxies/"+url.PathEscape(id)+"/restore", nil, nil, &p)
}

// PolicyPreview describes what would have happened to the requests of the last hour under another retry policy.
type PolicyPreview struct {
	Policy      Policy     `json:"policy"`
	Summary     string     `json:"summary"`
	Requests    uint64     `json:"requests"`
	Examined    int        `json:"examined"`
	Since       *time.Time `json:"since"`
	Recorded    Course     `json:"recorded"`
	UnderPolicy Course     `json:"under_policy"`
	Fewer       int        `json:"fewer_attempts"`
	More        int        `json:"more_attempts"`
	Statuses    []struct {
		Status   int    `json:"status"`
		Attempts uint64 `json:"attempts"`
		Retried  bool   `json:"retried"`
	} `json:"statuses"`
	Retries struct {
		Attempts int `json:"attempts"`
		Served   int `json:"served"`
	} `json:"retries"`
	Untold []string `json:"untold"`
}

// Course has the results of the examined requests under one policy.
type Course struct {
	Attempts int     `json:"attempts"`
	Served   int     `json:"served"`
	Refused  int     `json:"refused"`
	Unknown  int     `json:"unknown"`
	Waited   Seconds `json:"waited"`
}

// PreviewPolicy returns what would have happened to the requests of the last hour if the given fields of the retry
// policy had been different.
func (c *Client) PreviewPolicy(ctx context.Context, fields map[string]any) (p *PolicyPreview, err error) {
	return p, c.Do(ctx, "POST", "/retry/policy/preview", nil, fields, &p)
}
