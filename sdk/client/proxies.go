package client

import (
	"context"
	"net/url"
	"strings"
	"time"
)

// Proxy is a proxy of the pool.
type Proxy struct {
	ID          string   `json:"id"`
	URL         string   `json:"url"` // without credentials
	Region      string   `json:"region"`
	Tags        []string `json:"tags"`
	Weight      float64  `json:"weight"`
	Cost        float64  `json:"cost"`
	MaxInFlight int      `json:"max_in_flight"`           // 0 for no limit
	Rate        float64  `json:"rate,omitempty"`          // attempts a second; 0 for no limit
	MinInterval string   `json:"min_interval,omitempty"`  // such as "500ms"; "" for no limit
	BytesPerDay int64    `json:"bytes_per_day,omitempty"` // 0 for no limit
	BytesToday  *int64   `json:"bytes_today,omitempty"`   // nil without limits

	// LimitedUntil is set while the proxy is at a limit with a known end.
	LimitedUntil *time.Time `json:"limited_until,omitempty"`

	Tier        int               `json:"tier,omitempty"` // a lower tier is used first
	Vendor      string            `json:"vendor,omitempty"`
	CostRequest float64           `json:"cost_per_request,omitempty"`
	CostGB      float64           `json:"cost_per_gb,omitempty"` // cost of 1e9 bytes
	Auth        string            `json:"auth,omitempty"`        // "digest", or ""
	Reuse       bool              `json:"reuse"`
	Metadata    map[string]string `json:"metadata"`
	OwnError    []OwnError        `json:"own_error"`
	Source      string            `json:"source"`
	Draining    bool              `json:"draining"`
	State       string            `json:"state"` // state of the breaker: closed, open, half_open
	Unreached   bool              `json:"unreached"`
	InFlight    int64             `json:"in_flight"`
	Short       uint64            `json:"short_tunnels"`
	Uses        uint64            `json:"uses"`
	LastUsed    *time.Time        `json:"last_used"`
	SuccessRate float64           `json:"success_rate"` // 0 to 1, of the last Samples attempts
	Samples     int               `json:"samples"`
	AvgLatency  Seconds           `json:"avg_latency"`
	Abilities   struct {
		Forward      Ability `json:"forward"`
		Connect443   Ability `json:"connect_443"`
		ConnectOther Ability `json:"connect_other"`
	} `json:"abilities"`
	LastCheck *struct {
		At             time.Time `json:"at"`
		Passed         bool      `json:"passed"`
		Error          string    `json:"error"`
		Latency        Seconds   `json:"latency"`
		TLSIntercepted bool      `json:"tls_intercepted"`
	} `json:"last_check"`
	ExitAddress string     `json:"exit_address"`
	BannedUntil *time.Time `json:"banned_until"` // nil unless the proxy is banned
	Failure     *Failure   `json:"failure"`      // nil if the proxy works
	*Reasons               // set only by the method Proxy
}

// OwnError is a rule that recognizes error pages of the proxy itself.
type OwnError struct {
	Status int    `json:"status,omitempty"`
	Header string `json:"header,omitempty"`
	Body   string `json:"body,omitempty"`
}

// Ability is the state of one ability of a proxy: yes, no or unknown.
type Ability struct {
	State   string     `json:"state"`
	Source  string     `json:"source"`
	Since   *time.Time `json:"since"`
	RetryAt *time.Time `json:"retry_at"`
}

// ProxyChange has the fields of a new proxy, or of a change. In a change, a field that is nil stays as it is.
type ProxyChange struct {
	ID          *string           `json:"id,omitempty"`
	URL         *string           `json:"url,omitempty"`
	Region      *string           `json:"region,omitempty"`
	Tags        *[]string         `json:"tags,omitempty"` // replaces all tags
	Weight      *float64          `json:"weight,omitempty"`
	Cost        *float64          `json:"cost,omitempty"`
	MaxInFlight *int              `json:"max_in_flight,omitempty"`
	Rate        *float64          `json:"rate,omitempty"`
	MinInterval *string           `json:"min_interval,omitempty"`
	BytesPerDay *int64            `json:"bytes_per_day,omitempty"`
	Tier        *int              `json:"tier,omitempty"`
	Vendor      *string           `json:"vendor,omitempty"`
	CostRequest *float64          `json:"cost_per_request,omitempty"`
	CostGB      *float64          `json:"cost_per_gb,omitempty"`
	Auth        *string           `json:"auth,omitempty"`
	Reuse       *bool             `json:"reuse,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	OwnError    []OwnError        `json:"own_error,omitempty"`
	Persist     *bool             `json:"persist,omitempty"`
}

// ProxyPage is one page of the proxies.
type ProxyPage struct {
	Proxies []Proxy `json:"proxies"`
	Page
}

func proxyPath(id string, resource ...string) string {
	return "/proxies/" + strings.Join(append([]string{url.PathEscape(id)}, resource...), "/")
}

// Proxies lists the proxies of the pool.
func (c *Client) Proxies(ctx context.Context, l List) (p *ProxyPage, err error) {
	return p, c.Do(ctx, "GET", "/proxies", l.Query(), nil, &p)
}

// Proxy returns one proxy.
func (c *Client) Proxy(ctx context.Context, id string) (p *Proxy, err error) {
	return p, c.Do(ctx, "GET", proxyPath(id), nil, nil, &p)
}

// AddProxy adds a proxy. The field URL of change must be set.
func (c *Client) AddProxy(ctx context.Context, change ProxyChange) (p *Proxy, err error) {
	return p, c.Do(ctx, "POST", "/proxies", nil, change, &p)
}

// AddProxies adds the proxies of a text. Each line has one proxy, in a form that the flag --proxy accepts. If a line
// has an error, no proxy is added.
func (c *Client) AddProxies(ctx context.Context, lines string) ([]Proxy, error) {
	response, err := c.sendBody(ctx, "POST", "/proxies", nil, strings.NewReader(lines), "text/plain")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var p ProxyPage
	err = c.decodeBody(response, &p)
	return p.Proxies, err
}

// ChangeProxy changes fields of a proxy.
func (c *Client) ChangeProxy(ctx context.Context, id string, change ProxyChange) (p *Proxy, err error) {
	return p, c.Do(ctx, "PATCH", proxyPath(id), nil, change, &p)
}

// RemoveProxy removes a proxy. If drain is set, the proxy is removed after its last attempt has ended.
func (c *Client) RemoveProxy(ctx context.Context, id string, drain bool) error {
	q := url.Values{}
	if drain {
		q.Set("drain", "true")
	}
	return c.Do(ctx, "DELETE", proxyPath(id), q, nil, nil)
}

// ProxyTest is the result of a test of a proxy.
type ProxyTest struct {
	ProxyID        string  `json:"proxy_id"`
	Kind           string  `json:"kind"` // health_check or connection
	Passed         bool    `json:"passed"`
	Error          string  `json:"error"` // "" if the test has passed
	Latency        Seconds `json:"latency"`
	TLSIntercepted bool    `json:"tls_intercepted"`
	ExitAddress    string  `json:"exit_address"` // "" unless this test has found it
}

// TestProxy tests a proxy now. It changes nothing.
func (c *Client) TestProxy(ctx context.Context, id string) (t *ProxyTest, err error) {
	return t, c.Do(ctx, "POST", proxyPath(id, "test"), nil, nil, &t)
}

// Ban is a ban of a proxy. If Host is not "", the proxy is banned only for this host.
type Ban struct {
	ProxyID string    `json:"proxy_id"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
}

// BanProxy bans a proxy for the time d. If host is not "", the proxy is banned only for this host.
func (c *Client) BanProxy(ctx context.Context, id, host string, d time.Duration) (b *Ban, err error) {
	input := map[string]string{"for": d.String()}
	if host != "" {
		input["host"] = host
	}
	return b, c.Do(ctx, "POST", proxyPath(id, "ban"), nil, input, &b)
}

// EndBan ends the ban of a proxy: its ban for all hosts or, if host is not "", its ban for this host.
func (c *Client) EndBan(ctx context.Context, id, host string) error {
	q := url.Values{}
	if host != "" {
		q.Set("host", host)
	}
	return c.Do(ctx, "DELETE", proxyPath(id, "ban"), q, nil, nil)
}
