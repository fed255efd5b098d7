package api

import (
	"cmp"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// lossView is the JSON of lost requests whose last attempts have the same cause, status and host.
type lossView struct {
	Requests int    `json:"requests"`
	Proxies  int    `json:"proxies"`
	Proxy    string `json:"proxy"` // "" if there are several, or none
	Cause    string `json:"cause"` // cause of the last attempt; without an attempt, the outcome of the request
	Status   int    `json:"status"`
	Host     string `json:"host"`
	Reason   string `json:"reason"` // cause, status and host as a text, such as "403 at shop.example"
}

// groupLosses returns the groups of lost requests, the largest first.
func groupLosses(losses []metrics.Loss) []lossView {
	groups := map[lossView]map[string]struct{}{} // the proxies of each group
	counts := map[lossView]int{}
	for i := range losses {
		key := viewOfLoss(&losses[i])
		if groups[key] == nil {
			groups[key] = map[string]struct{}{}
		}
		counts[key]++
		if id := losses[i].ProxyID; id != "" {
			groups[key][id] = struct{}{}
		}
	}
	list := []lossView{}
	for v, proxies := range groups {
		v.Requests, v.Proxies = counts[v], len(proxies)
		if len(proxies) == 1 {
			for v.Proxy = range proxies {
			}
		}
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b lossView) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), strings.Compare(a.Reason, b.Reason))
	})
	return list[:min(len(list), maxFailureGroups)]
}

// viewOfLoss returns the group to which a lost request belongs. The fields Requests, Proxies and Proxy are not set.
func viewOfLoss(l *metrics.Loss) lossView {
	g := failureGroup{Cause: l.Final.String()}
	if l.ProxyID != "" {
		g = failureGroup{Cause: verdict.CauseName(l.Key.Cause()), Status: l.Key.Status(), Host: l.Host}
		if verdict.IsConnectFailure(l.Key.Cause()) || verdict.BarsProxy(l.Key.Cause()) {
			g.Host = ""
		}
	}
	return lossView{Cause: g.Cause, Status: g.Status, Host: g.Host, Reason: g.text()}
}
