package api

import (
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Cluster is the cluster to which this gateway belongs.
type Cluster interface {
	Status() cluster.Status
	// Reports returns the breakers and targets of the live nodes.
	Reports() cluster.Reports
	// Alone reports whether the store cannot be reached, and why.
	Alone() (alone bool, problem string)
	// ResetProxy resets the breaker of a proxy on the other nodes.
	ResetProxy(u *upstream.Upstream)
	// Name returns the name of this node.
	Name() string
	// Audit adds an entry of this node to the audit trail. AuditTrail returns the entries of all nodes, the latest
	// first.
	Audit(e cluster.AuditEntry)
	AuditTrail() []cluster.AuditEntry
	// AuditVersion returns a number. As long as the number is the same, AuditTrail returns the same entries.
	AuditVersion() uint64
}

// clusterHandler serves /cluster.
type clusterHandler struct {
	cluster Cluster // nil without a cluster
	store   string  // URL without credentials
}

func (h *clusterHandler) routes(r fiber.Router) {
	r.Get("/cluster", h.get)
	r.Get("/cluster/breakers", h.breakers)
	r.Get("/cluster/targets", h.targets)
}

// clusterView is the JSON of the cluster.
type clusterView struct {
	Enabled        bool                 `json:"enabled"` // if it is false, the fields below are missing or 0
	Name           string               `json:"name,omitempty"`
	Node           string               `json:"node,omitempty"`
	Store          *storeView           `json:"store,omitempty"`
	Nodes          []nodeView           `json:"nodes,omitempty"`
	OpenBreakers   int                  `json:"open_breakers"`
	Breakers       []clusterBreakerView `json:"breakers,omitempty"` // at most 1000
	Changes        []clusterChangeView  `json:"changes,omitempty"`  // at most 1000
	Requests       *windowView          `json:"requests,omitempty"` // sums over all live nodes
	SuspectTargets []suspectView        `json:"suspect_targets,omitempty"`
	Uploads        []clusterUploadView  `json:"uploads,omitempty"`

	LimitsState string            `json:"limits_state,omitempty"` // shared, equal_shares (without the store) or node
	Limits      []sharedLimitView `json:"limits,omitempty"`       // shared limits that this node uses, at most 1000
}

// storeView is the JSON of the store of a cluster. Durations are in seconds.
type storeView struct {
	URL          string    `json:"url"`
	State        string    `json:"state"` // connected, or alone
	Since        time.Time `json:"since"`
	Error        string    `json:"error,omitempty"`
	Lag          *float64  `json:"lag"` // time since the last exchange; null if there was no exchange
	LastExchange float64   `json:"last_exchange"`
	Waiting      int       `json:"waiting"`
	Dropped      uint64    `json:"dropped"`
}

// nodeView is the JSON of a node of a cluster.
type nodeView struct {
	Node          string    `json:"node"`
	Self          bool      `json:"self"`
	State         string    `json:"state"` // live, isolated or gone
	Version       string    `json:"version"`
	Address       string    `json:"address"`
	Host          string    `json:"host"`      // name of its machine; "" if it is not known
	SameName      bool      `json:"same_name"` // another live node has the same name
	Started       time.Time `json:"started"`
	ReportAge     float64   `json:"seen"` // age of the node's last report in seconds
	TriedProxies  int       `json:"tried_proxies"`
	TimesAlone    uint64    `json:"times_alone"`
	FailedUploads int       `json:"failed_uploads"` // shared uploads that the node cannot have

	Requests windowView `json:"requests"`
	Proxies  struct {
		Total     int `json:"total"`
		InService int `json:"in_service"`
	} `json:"proxies"`
}

// suspectView is the JSON of a suspect target, with the nodes that found it suspect.
type suspectView struct {
	Target string   `json:"target"`
	Nodes  []string `json:"nodes"`
}

// clusterBreakerView is the JSON of a breaker that is open for the cluster.
type clusterBreakerView struct {
	ProxyID  string    `json:"proxy_id"`
	NextTest time.Time `json:"next_test_time"`
	Why      string    `json:"why"`
	Nodes    []string  `json:"nodes"`
	Probing  bool      `json:"probing"` // this gateway has the lease of the probe
}

// clusterChangeView is the JSON of the last change of one thing, such as the policy or a proxy. Key names the thing.
// The API of any node may have made the change.
type clusterChangeView struct {
	Key      string    `json:"key"`
	Revision int64     `json:"revision"`
	At       time.Time `json:"at"`
	Node     string    `json:"node"`   // that made the change; "" if it is not known
	Shared   bool      `json:"shared"` // the store has the change
}

// clusterUploadView is the JSON of an uploaded plugin that the nodes share. Its state is the state on this gateway.
type clusterUploadView struct {
	Name    string `json:"name"`
	SHA256  string `json:"sha256,omitempty"` // SHA-256 of the module; absent if Deleted is set
	Size    int    `json:"size"`
	Deleted bool   `json:"deleted"` // the plugin is to be deleted
	State   string `json:"state"`   // ready, waiting or failed
	Error   string `json:"error,omitempty"`
}

func (h *clusterHandler) get(c *fiber.Ctx) error { return send(c, h.view()) }

func (h *clusterHandler) view() clusterView {
	if h.cluster == nil {
		return clusterView{}
	}
	s := h.cluster.Status()
	store := &storeView{URL: h.store, State: "connected", Since: s.Since.UTC(), Error: s.Problem,
		LastExchange: s.Took.Seconds(), Waiting: s.Waiting, Dropped: s.Counts.Dropped}
	if s.Alone {
		store.State = "alone"
	}
	if s.Lag >= 0 {
		lag := s.Lag.Seconds()
		store.Lag = &lag
	}
	v := clusterView{Enabled: true, Name: s.Name, Node: s.Node, Store: store, OpenBreakers: s.Open}
	for i := range s.Nodes {
		v.Nodes = append(v.Nodes, viewOfNode(&s.Nodes[i]))
	}
	requests := sumRequests(&s)
	v.Requests = &requests
	for _, t := range s.Suspects {
		v.SuspectTargets = append(v.SuspectTargets, suspectView(t))
	}
	for _, b := range s.Breakers {
		v.Breakers = append(v.Breakers, clusterBreakerView{proxyIDOfKey(b.Proxy), b.Due.UTC(), b.Why, b.Nodes, b.Lease})
	}
	for _, u := range s.Uploads {
		v.Uploads = append(v.Uploads, clusterUploadView{u.Name, u.SHA256, u.Size, u.Deleted, u.State, u.Problem})
	}
	for _, ch := range s.Changes {
		v.Changes = append(v.Changes, clusterChangeView{ch.Key, ch.Revision, ch.At.UTC(), ch.Node, !ch.Waiting})
	}
	v.LimitsState, v.Limits = viewOfLimits(&s)
	return v
}

func nodeState(n *cluster.NodeStatus) string {
	switch {
	case !n.Live:
		return "gone"
	case n.Isolated:
		return "isolated"
	}
	return "live"
}

func viewOfNode(n *cluster.NodeStatus) nodeView {
	v := nodeView{Node: n.Node, Self: n.Self, State: nodeState(n), Version: n.Version, Address: n.Address,
		Host: n.Host, SameName: n.Twin,
		Started: n.Started.UTC(), ReportAge: n.Seen.Seconds(), TriedProxies: n.Tried, TimesAlone: n.Alone,
		FailedUploads: n.Uploads,
		Requests: windowView{cluster.LoadWindow.Seconds(), n.Requests, n.Delivered, n.Refused, n.Attempts,
			n.Retries}}
	v.Proxies.Total, v.Proxies.InService = n.Proxies, n.InService
	return v
}

// sumRequests returns the sums of the request counts of all live nodes.
func sumRequests(s *cluster.Status) windowView {
	sum := windowView{Window: cluster.LoadWindow.Seconds()}
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Live {
			sum.Total += n.Requests
			sum.Delivered += n.Delivered
			sum.Refused += n.Refused
			sum.Attempts += n.Attempts
			sum.Retries += n.Retries
		}
	}
	return sum
}

// clusterStatus is the JSON of a cluster in the response to GET /status.
type clusterStatus struct {
	Name      string     `json:"name"`
	Node      string     `json:"node"`  // name of this gateway
	State     string     `json:"state"` // state of this gateway: live, isolated or alone
	LiveNodes int        `json:"live_nodes"`
	SameName  bool       `json:"-"`        // another live node has the name of this gateway
	Requests  windowView `json:"requests"` // sums over all live nodes
}

func viewOfCluster(s *cluster.Status) *clusterStatus {
	v := &clusterStatus{Name: s.Name, Node: s.Node, State: "live", Requests: sumRequests(s)}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Live {
			v.LiveNodes++
		}
		if n.Self && n.Live {
			v.State, v.SameName = nodeState(n), n.Twin
		}
	}
	if s.Alone {
		v.State = "alone"
	}
	return v
}

// text returns the problem that this gateway has as a node of the cluster, or "" if there is none. The text is
// appended to the summary of the gateway's state.
func (s *clusterStatus) text() string {
	switch {
	case s.State == "alone":
		return "; the cluster's store cannot be reached, so this gateway is alone"
	case s.State == "isolated":
		return "; this gateway is isolated: it fails at proxies that serve the other nodes of the cluster"
	case s.SameName:
		return "; another gateway of the cluster has the name " + s.Node + ", too"
	}
	return ""
}

// proxyIDOfKey returns the id of a proxy from its key in the cluster, ID@HASH.
func proxyIDOfKey(key string) string {
	if i := strings.LastIndexByte(key, '@'); i >= 0 {
		return key[:i]
	}
	return key
}
