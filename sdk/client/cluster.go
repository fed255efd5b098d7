package client

import (
	"context"
	"time"
)

// Cluster is the cluster of a gateway, as this gateway sees it. Without a cluster, Enabled is false, and the other
// fields are not set.
type Cluster struct {
	Enabled        bool             `json:"enabled"`
	Name           string           `json:"name"`
	Node           string           `json:"node"` // this gateway
	Store          *Store           `json:"store"`
	Nodes          []Node           `json:"nodes"`
	OpenBreakers   int              `json:"open_breakers"`
	Breakers       []ClusterBreaker `json:"breakers"`        // at most 1000
	Changes        []ClusterChange  `json:"changes"`         // at most 1000
	Requests       *LatestRequests  `json:"requests"`        // of all live nodes
	SuspectTargets []SuspectTarget  `json:"suspect_targets"` // at most 1000
	Uploads        []ClusterUpload  `json:"uploads"`
	LimitsState    string           `json:"limits_state"` // shared, equal_shares (without the store) or node
	Limits         []SharedLimit    `json:"limits"`       // shared limits that this gateway uses, at most 1000
}

// Store is the store of a cluster.
type Store struct {
	URL      string    `json:"url"`   // without credentials
	State    string    `json:"state"` // connected, or alone
	Since    time.Time `json:"since"`
	Error    string    `json:"error"` // why the store cannot be reached
	Lag      *Seconds  `json:"lag"`   // time since the last exchange; nil if there was no exchange
	Exchange Seconds   `json:"last_exchange"`
	Waiting  int       `json:"waiting"` // events that the store does not have yet
	Dropped  uint64    `json:"dropped"` // events that were not shared
}

// Node is a gateway of a cluster.
type Node struct {
	Name         string         `json:"node"`
	Self         bool           `json:"self"`
	State        string         `json:"state"` // live, isolated or gone
	Version      string         `json:"version"`
	Address      string         `json:"address"` // of its API
	Started      time.Time      `json:"started"`
	Seen         Seconds        `json:"seen"`          // age of its last report
	TriedProxies int            `json:"tried_proxies"` // within the last minute
	TimesAlone   uint64         `json:"times_alone"`
	Uploads      int            `json:"failed_uploads"` // uploaded plugins of others that it cannot have
	Requests     LatestRequests `json:"requests"`
	Proxies      struct {
		Total     int `json:"total"`
		InService int `json:"in_service"`
	} `json:"proxies"`
}

// ClusterBreaker is a breaker that is open for the cluster.
type ClusterBreaker struct {
	ProxyID      string    `json:"proxy_id"`
	NextTestTime time.Time `json:"next_test_time"`
	Why          string    `json:"why"`
	Nodes        []string  `json:"nodes"`   // nodes at which the proxy failed
	Probing      bool      `json:"probing"` // this gateway has the lease of the probe
}

// ClusterChange is the last change of the thing that Key names, through the API of any node.
type ClusterChange struct {
	Key      string    `json:"key"` // policy, plugin/USE, proxy/ID or upload/NAME
	Revision int64     `json:"revision"`
	At       time.Time `json:"at"`
	Shared   bool      `json:"shared"` // the store has the change
}

// SuspectTarget is a target that nodes have found suspect.
type SuspectTarget struct {
	Target string   `json:"target"`
	Nodes  []string `json:"nodes"`
}

// ClusterUpload is an uploaded plugin that the nodes share, in its state on this gateway.
type ClusterUpload struct {
	Name    string `json:"name"`
	SHA256  string `json:"sha256"` // of the module; "" for a plugin to be deleted
	Size    int    `json:"size"`
	Deleted bool   `json:"deleted"` // the plugin is to be deleted
	State   string `json:"state"`   // ready, waiting or failed
	Error   string `json:"error"`   // why it is not ready; "" for none
}

// SharedLimit is a limit that holds for all nodes together. Rates are in attempts a second, also that of min_interval.
type SharedLimit struct {
	Of       string   `json:"of"`    // user or proxy
	ID       string   `json:"id"`    // of the proxy, or name of the user
	Limit    string   `json:"limit"` // such as requests_per_day
	Amount   float64  `json:"amount"`
	Used     *float64 `json:"used"`      // by all nodes; nil for a rate
	UsedHere *float64 `json:"used_here"` // by this gateway; nil for a rate
	Part     float64  `json:"part"`      // what this gateway may use without asking, with UsedHere
	Short    bool     `json:"short"`     // this gateway has used its whole part in the last second
}

// LatestRequests counts the requests of the latest minutes.
type LatestRequests struct {
	Window    Seconds `json:"window"`
	Total     uint64  `json:"total"`
	Delivered uint64  `json:"delivered"`
	Refused   uint64  `json:"target_refused"` // delivered, with status 403 or 429
}

// Cluster returns the cluster of the gateway.
func (c *Client) Cluster(ctx context.Context) (v *Cluster, err error) {
	return v, c.Do(ctx, "GET", "/cluster", nil, nil, &v)
}
