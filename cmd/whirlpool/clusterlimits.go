package main

import (
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
	"github.com/whirlpool-proxy/whirlpool/core/share"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// clusterLimits gives the cluster access to the limits of users and proxies that its nodes share. It implements
// cluster.SharedLimits.
type clusterLimits struct {
	engine     *engine.Engine
	serving    atomic.Bool // SharesGrown has started a goroutine that has not run yet
	divisor    int64       // last argument of Pool.SetDivisor
	nextProxy  int         // index of the next proxy that EachUsed reads
	toReport   int         // number of proxies whose used bytes EachUsed must still report
	toSearch   int         // number of proxies that EachUsed must still search for used shares (see searchInterval)
	lastSearch time.Time   // time at which the last search began
}

var _ cluster.SharedLimits = (*clusterLimits)(nil)

func newClusterLimits(e *engine.Engine) *clusterLimits {
	return &clusterLimits{engine: e}
}

// SetInitialShares implements cluster.SharedLimits.
func (c *clusterLimits) SetInitialShares(s share.InitialShares) {
	c.engine.Accounts().SetInitialShares(s, time.Now())
	if d := s.Divisor(); d != c.divisor { // a call of Pool.SetDivisor takes long if the pool has many proxies
		c.divisor = d
		c.engine.Pool().SetDivisor(d)
	}
}

// SharesGrown implements cluster.SharedLimits.
func (c *clusterLimits) SharesGrown() {
	if c.serving.CompareAndSwap(false, true) {
		go func() {
			c.serving.Store(false) // serving is false before ServeQueues reads the shares, so that no growth is missed
			c.engine.ServeQueues()
		}()
	}
}

// maxLimitsScanned is the maximum number of proxies that one call of EachUsed reads, so that the call returns soon.
const maxLimitsScanned = 5000

// recentUse is the time after the beginning of a proxy's last attempt for which the limits of the proxy count as used.
const recentUse = 5 * time.Second

// EachUsed implements cluster.SharedLimits.
func (c *clusterLimits) EachUsed(all bool, f func(share.Limit)) {
	now := time.Now()
	c.eachUser(all, now, f)
	pool := c.engine.Pool()
	if !pool.MayHaveLimits() {
		return
	}
	list := pool.Snapshot().All
	if all {
		c.toReport = len(list)
	}
	if now.Sub(c.lastSearch) >= searchInterval {
		c.toSearch, c.lastSearch = len(list), now
	}
	since := pool.Elapsed(now) - recentUse
	for range min(len(list), maxLimitsScanned) {
		u := list[c.nextProxy%len(list)]
		c.nextProxy++
		usedRecently, mustReport, mustSearch := u.UsedAfter(since), c.toReport > 0, c.toSearch > 0
		c.toReport, c.toSearch = max(c.toReport-1, 0), max(c.toSearch-1, 0)
		if !usedRecently && !mustReport && !mustSearch || u.Usage() == nil && u.Spec().Extra().MaxInFlight == 0 {
			continue
		}
		bytes := u.ShareUse(limit.Bytes)
		for k := range limit.NumKinds {
			if mustReport && k == limit.Bytes && bytes.Used > 0 ||
				(usedRecently || k == limit.Bytes && bytes.NeedsMore()) && !u.HasShare(k) {
				if l := (proxyLimit{c.engine, u, k}); l.Use().Limit > 0 {
					f(l)
				}
			}
		}
	}
}

// searchInterval is the interval at which EachUsed begins to search all proxies, even proxies without recent attempts.
// It searches for limits of which this node has used its whole share (share.Use.NeedsMore). A share can become too
// small, for example if the limit is raised.
const searchInterval = 10 * time.Second

// eachUser calls f for the limits of users that the cluster must get (see cluster.SharedLimits.EachUsed).
func (c *clusterLimits) eachUser(all bool, now time.Time, f func(share.Limit)) {
	accounts := c.engine.Accounts()
	if all {
		for a := range accounts.All() {
			for k := range access.NumKinds {
				if use := a.ShareUse(k, now); use.Limit > 0 && use.Kind == share.Daily && use.Used > 0 {
					f(userLimit{c.engine, a.Name, k})
				}
			}
		}
	}
	accounts.EachActive(func(a *access.Account) {
		for k := range access.NumKinds {
			if use := a.ShareUse(k, now); use.Limit > 0 && !a.HasShare(k) {
				f(userLimit{c.engine, a.Name, k})
			}
		}
	})
}

// proxyLimit is a shared limit of a proxy.
type proxyLimit struct {
	engine *engine.Engine
	proxy  *upstream.Upstream
	kind   limit.Kind
}

// The names of kinds of limits in the keys of the cluster and in its API.
var (
	proxyKinds = [limit.NumKinds]string{"max_in_flight", "rate", "min_interval", "bytes_per_day"}
	userKinds  = [access.NumKinds]string{"max_in_flight", "requests_per_day", "bytes_per_day"}
)

// Key implements share.Limit.
func (l proxyLimit) Key() string { return "proxy/" + proxyKinds[l.kind] + "/" + proxyKey(l.proxy) }

// Use implements share.Limit.
func (l proxyLimit) Use() share.Use {
	if l.engine.Pool().Snapshot().Get(l.proxy.ID()) != l.proxy {
		return share.Use{}
	}
	return l.proxy.ShareUse(l.kind)
}

// SetShare implements share.Limit.
func (l proxyLimit) SetShare(size, total, base int64) int64 {
	return l.proxy.SetShare(l.kind, size, total, base)
}

// ReleaseShare implements share.Limit.
func (l proxyLimit) ReleaseShare(size, total, base int64) {
	l.proxy.ReleaseShare(l.kind, size, total, base)
}

// userLimit is a shared limit of a user.
type userLimit struct {
	engine *engine.Engine
	name   string
	kind   access.Kind
}

// Key implements share.Limit.
func (l userLimit) Key() string { return "user/" + userKinds[l.kind] + "/" + l.name }

func (l userLimit) account() *access.Account { return l.engine.Accounts().ByName(l.name) }

// Use implements share.Limit.
func (l userLimit) Use() share.Use {
	if a := l.account(); a != nil {
		return a.ShareUse(l.kind, time.Now())
	}
	return share.Use{}
}

// SetShare implements share.Limit.
func (l userLimit) SetShare(size, total, base int64) int64 {
	if a := l.account(); a != nil {
		return a.SetShare(l.kind, size, total, base)
	}
	return size
}

// ReleaseShare implements share.Limit.
func (l userLimit) ReleaseShare(size, total, base int64) {
	if a := l.account(); a != nil {
		a.ReleaseShare(l.kind, size, total, base)
	}
}

// holderFile is the name of a file in the state folder. The file contains a random name. Under this name, the cluster
// counts the use of shared limits by the gateways that use the folder one after another. Because the name survives a
// restart, no use is counted twice.
const holderFile = "cluster"

// readHolderName returns the name in holderFile. If there is no such file, it makes one with a new name. Without a
// state folder, it returns a new name.
func readHolderName(dir string, log *slog.Logger) string {
	name := strings.ToLower(rand.Text())
	if dir == "" {
		return name
	}
	file := filepath.Join(dir, holderFile)
	if data, err := os.ReadFile(file); err == nil && isHolderName(string(data)) {
		return string(data)
	}
	if err := os.WriteFile(file, []byte(name), 0o600); err != nil {
		log.Warn("after a restart, the amounts of today are counted twice in the cluster", slog.Any("error", err))
	}
	return name
}

// isHolderName reports whether s may be the content of holderFile.
func isHolderName(s string) bool {
	return len(s) >= 16 && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz234567") == ""
}
