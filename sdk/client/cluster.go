package client

import (
	"context"
	"time"
)

// Cluster is the state of a cluster as one gateway sees it. Without a cluster, Enabled is false, and no other field is
// set.
type Cluster struct {
	Enabled        bool             `json:"enabled"`
	Name           string           `json:"name"`
	Node           string           `json:"node"` // name of this gateway
	Store          *Store           `json:"store"`
	Nodes          []Node           `json:"nodes"`
	OpenBreakers   int              `json:"open_breakers"`
	Breakers       []ClusterBreaker `json:"breakers"`        // at most 1000
	Changes        []ClusterChange  `json:"changes"`         // at most 1000
	Requests       *LatestRequests  `json:"requests"`        // sums over all live nodes
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
	Error    string    `json:"error"` // reason why the store cannot be reached
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
	Address      string         `json:"address"`   // address of the node's API
	Host         string         `json:"host"`      // name of the node's machine
	SameName     bool           `json:"same_name"` // another live node has the same name
	Started      time.Time      `json:"started"`
	Seen         Seconds        `json:"seen"`          // age of the node's last report
	TriedProxies int            `json:"tried_proxies"` // within the last minute
	TimesAlone   uint64         `json:"times_alone"`
	Uploads      int            `json:"failed_uploads"` // uploads of other nodes that failed on this node
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

// ClusterChange is the last change of one object, such as the policy or a plugin, through the API of any node.
type ClusterChange struct {
	Key      string    `json:"key"` // policy, plugin/USE, proxy/ID or upload/NAME
	Revision int64     `json:"revision"`
	At       time.Time `json:"at"`
	Node     string    `json:"node"`   // that made the change; "" if it is not known
	Shared   bool      `json:"shared"` // the store has the change
}

// SuspectTarget is a target that is suspect on some nodes.
type SuspectTarget struct {
	Target string   `json:"target"`
	Nodes  []string `json:"nodes"`
}

// ClusterUpload is an uploaded plugin that the nodes share. The fields State and Error describe it on this gateway.
type ClusterUpload struct {
	Name    string `json:"name"`
	SHA256  string `json:"sha256"` // SHA-256 of the module; "" if Deleted is set
	Size    int    `json:"size"`
	Deleted bool   `json:"deleted"` // the plugin is to be deleted
	State   string `json:"state"`   // ready, waiting or failed
	Error   string `json:"error"`   // why it is not ready; "" for none
}

// SharedLimit is a limit that holds for all nodes together. The amounts of the limits "rate" and "min_interval" are in
// attempts a second.
type SharedLimit struct {
	Of       string   `json:"of"`    // user or proxy
	ID       string   `json:"id"`    // id of the proxy, or name of the user
	Limit    string   `json:"limit"` // name of the limit, such as requests_per_day
	Amount   float64  `json:"amount"`
	Used     *float64 `json:"used"`      // amount that all nodes have used; nil for a rate
	UsedHere *float64 `json:"used_here"` // amount that this gateway has used; nil for a rate
	Part     float64  `json:"part"`      // amount, with UsedHere, that this gateway may use without asking the store
	Short    bool     `json:"short"`     // this gateway has used its whole share in the last second
}

// LatestRequests counts the requests of the latest minutes.
type LatestRequests struct {
	Window    Seconds `json:"window"`
	Total     uint64  `json:"total"`
	Delivered uint64  `json:"delivered"`
	Refused   uint64  `json:"target_refused"` // delivered, with status 403 or 429
	Attempts  uint64  `json:"attempts"`
	Retries   uint64  `json:"retries"`
}

// Cluster returns the state of the gateway's cluster.
func (c *Client) Cluster(ctx context.Context) (v *Cluster, err error) {
	return v, c.Do(ctx, "GET", "/cluster", nil, nil, &v)
}

// ClusterBreakerRow describes the breakers of one proxy. At least one node has a breaker that is not closed, or the
// breaker is open for the whole cluster.
type ClusterBreakerRow struct {
	ProxyID string        `json:"proxy_id"`
	State   string        `json:"state"`   // open if the breaker is open on a node or for the cluster, else half_open
	Cluster bool          `json:"cluster"` // the breaker is open for the cluster
	Why     string        `json:"why"`     // reason why the breaker is open for the cluster
	Nodes   []NodeBreaker `json:"nodes"`   // nodes on which the breaker is not closed
}

// NodeBreaker is a breaker on one node.
type NodeBreaker struct {
	Node         string     `json:"node"`
	State        string     `json:"state"` // open or half_open
	FailureCount int        `json:"failure_count"`
	NextTestTime *time.Time `json:"next_test_time"` // nil unless the breaker is open
}

// ClusterTargetRow is a target with a recent failure on some node.
type ClusterTargetRow struct {
	Target         string       `json:"target"`
	Attempts       int          `json:"attempts"` // sum over all nodes that list the target
	Failures       int          `json:"failures"`
	FailureRate    float64      `json:"failure_rate"`
	ProxiesFailing int          `json:"proxies_failing"` // the largest number on one node
	Suspect        bool         `json:"suspect"`         // the target is suspect on at least one node
	LastFailure    time.Time    `json:"last_failure"`
	Nodes          []NodeTarget `json:"nodes"`
}

// NodeTarget is a target on one node.
type NodeTarget struct {
	Node           string    `json:"node"`
	Attempts       int       `json:"attempts"`
	Failures       int       `json:"failures"`
	ProxiesFailing int       `json:"proxies_failing"`
	Suspect        bool      `json:"suspect"`
	LastFailure    time.Time `json:"last_failure"`
}

// ClusterBreakerPage is one page of the breakers of all nodes.
type ClusterBreakerPage struct {
	Breakers     []ClusterBreakerRow `json:"breakers"`
	MissingNodes []string            `json:"missing_nodes"` // live nodes whose rows cannot be read now
	Page
}

// ClusterTargetPage is one page of the targets of all nodes.
type ClusterTargetPage struct {
	Targets      []ClusterTargetRow `json:"targets"`
	MissingNodes []string           `json:"missing_nodes"` // live nodes whose rows cannot be read now
	Page
}

// ClusterBreakers lists the breakers that are not closed on at least one node, or that are open for the cluster. Of the
// fields of l, only Text, Sort, Limit and Cursor may be set.
func (c *Client) ClusterBreakers(ctx context.Context, l List) (p *ClusterBreakerPage, err error) {
	return p, c.Do(ctx, "GET", "/cluster/breakers", l.Query(), nil, &p)
}

// ClusterTargets lists the targets that have failed recently on at least one node. Of the fields of l, only Text, Sort,
// Limit and Cursor may be set.
func (c *Client) ClusterTargets(ctx context.Context, l List) (p *ClusterTargetPage, err error) {
	return p, c.Do(ctx, "GET", "/cluster/targets", l.Query(), nil, &p)
}
