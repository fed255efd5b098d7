package config

import (
	"cmp"
	"encoding/json"
	"time"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lists"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Proxy is one entry of [[proxies]].
type Proxy struct {
	ID          string            `koanf:"id" json:"id"`
	URL         Address           `koanf:"url" json:"url"`
	Region      string            `koanf:"region" json:"region"`
	Tags        []string          `koanf:"tags" json:"tags,omitempty"`
	Weight      *float64          `koanf:"weight" json:"weight"` // not nil after the check
	Cost        float64           `koanf:"cost" json:"cost"`
	MaxInFlight int               `koanf:"max_in_flight" json:"max_in_flight"`
	Rate        float64           `koanf:"rate" json:"rate"`
	MinInterval Duration          `koanf:"min_interval" json:"min_interval"`
	BytesPerDay Size              `koanf:"bytes_per_day" json:"bytes_per_day"`
	Tier        int               `koanf:"tier" json:"tier"`
	Vendor      string            `koanf:"vendor" json:"vendor"`
	CostRequest float64           `koanf:"cost_per_request" json:"cost_per_request"`
	CostGB      float64           `koanf:"cost_per_gb" json:"cost_per_gb"`
	Auth        string            `koanf:"auth" json:"auth,omitempty"`
	Reuse       *bool             `koanf:"reuse" json:"reuse"`               // not nil after the check
	CAFile      string            `koanf:"ca_file" json:"ca_file,omitempty"` // CAFile to Key: for https:// proxies
	Insecure    bool              `koanf:"insecure" json:"insecure,omitempty"`
	Cert        string            `koanf:"cert" json:"cert,omitempty"`
	Key         string            `koanf:"key" json:"key,omitempty"`
	Metadata    map[string]string `koanf:"metadata" json:"metadata"`
	Breaker     *OwnBreaker       `koanf:"breaker" json:"breaker,omitempty"`
	OwnErrors   OwnErrors         `koanf:"own_error" json:"own_error,omitempty"`
}

// OwnErrors is the key own_error of a proxy. In the configuration it is one table, or a list of tables.
type OwnErrors []OwnError

// OwnError is a rule that recognizes an error page that the proxy wrote itself; see upstream.OwnError.
type OwnError struct {
	Status int    `koanf:"status" json:"status,omitempty"`
	Header string `koanf:"header" json:"header,omitempty"`
	Body   string `koanf:"body" json:"body,omitempty"`
}

func (o OwnErrors) specs() (specs []upstream.OwnError) {
	for _, rule := range o {
		specs = append(specs, upstream.OwnError(rule))
	}
	return specs
}

// Address is the URL of a proxy as it is in the configuration. Its text form masks the credentials.
type Address string

// MarshalText masks the credentials.
func (a Address) MarshalText() ([]byte, error) {
	parsed, err := upstream.ParseAddress(string(a))
	if err != nil {
		return []byte("***"), nil
	}
	return []byte(parsed.Redacted()), nil
}

// Pool is the [pool] section.
type Pool struct {
	Files []PoolFile `koanf:"files" json:"files"`
	URLs  []ListURL  `koanf:"urls" json:"urls"`
}

// PoolFile is an element of pool.files: a proxy list in a file.
type PoolFile struct {
	File   string              `koanf:"file" json:"file"`
	Scheme string              `koanf:"scheme" json:"scheme,omitempty"` // scheme of lines without one; "" for http
	ID     upstream.IDTemplate `koanf:"id" json:"id,omitempty"`
}

// MarshalJSON returns a table if ID is set. Otherwise it returns the text "SCHEME:FILE" or "FILE", which the
// configuration accepts in place of a table.
func (f PoolFile) MarshalJSON() ([]byte, error) {
	type table PoolFile
	if f.ID != "" {
		return json.Marshal(table(f))
	}
	return json.Marshal(f.name())
}

// name returns the name of the file, with the scheme before it.
func (f *PoolFile) name() string {
	if f.Scheme == "" {
		return f.File
	}
	return f.Scheme + ":" + f.File
}

// ListURL is an element of pool.urls: a proxy list that is fetched by URL.
type ListURL struct {
	URL     ListAddress `koanf:"url" json:"url"`
	Scheme  string      `koanf:"scheme" json:"scheme,omitempty"`
	Refresh Duration    `koanf:"refresh" json:"refresh" range:"0s,720h"` // 0 if the key is not set

	ID upstream.IDTemplate `koanf:"id" json:"id,omitempty"`
}

// ListAddress is the URL of a proxy list. Its text form masks the parts that may be secret.
type ListAddress string

// MarshalText returns the URL with its secret parts masked (lists.Redacted).
func (a ListAddress) MarshalText() ([]byte, error) { return []byte(lists.Redacted(string(a))), nil }

// defaultRefresh is the default time from one fetch of a proxy list to the next.
const defaultRefresh = Duration(10 * time.Minute)

// Lists returns the proxy lists that the gateway must fetch by URL.
func (c *Config) Lists() []lists.Source {
	out := make([]lists.Source, len(c.Pool.URLs))
	for i, u := range c.Pool.URLs {
		out[i] = u.source()
	}
	return out
}

func (u *ListURL) source() lists.Source {
	return lists.Source{URL: string(u.URL), Scheme: u.Scheme, Refresh: time.Duration(cmp.Or(u.Refresh, defaultRefresh))}
}
