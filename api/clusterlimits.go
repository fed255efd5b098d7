package api

import (
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/cluster"
	"github.com/whirlpool-proxy/whirlpool/core/share"
)

// sharedLimitView is the JSON of a limit that the nodes of a cluster share. The amounts of the limits "rate" and
// "min_interval" are in attempts a second.
type sharedLimitView struct {
	Of         string   `json:"of"`    // user or proxy
	ID         string   `json:"id"`    // id of the proxy, or name of the user
	Limit      string   `json:"limit"` // key of the limit in the configuration
	Amount     float64  `json:"amount"`
	Used       *float64 `json:"used,omitempty"`      // amount that all nodes have used; absent for rates
	UsedHere   *float64 `json:"used_here,omitempty"` // amount that this node has used; absent for rates
	Part       float64  `json:"part"`                // amount that this node may use without asking the store
	PartUsedUp bool     `json:"short"`               // this node has used its whole share in the last second
}

// viewOfLimit returns the view of a limit, whose key is OWNER/LIMIT/ID.
func viewOfLimit(l *cluster.LimitStatus) sharedLimitView {
	owner, limitAndID, _ := strings.Cut(l.Key, "/")
	name, id, _ := strings.Cut(limitAndID, "/")
	if owner == "proxy" {
		id = proxyIDOfKey(id)
	}
	v := sharedLimitView{Of: owner, ID: id, Limit: name, PartUsedUp: l.NeedsMore}
	if l.Kind == share.Rate {
		v.Amount, v.Part = float64(l.Limit)/share.RateUnit, float64(l.Share)/share.RateUnit
		return v
	}
	used, usedHere := float64(l.Used), float64(l.UsedHere)
	v.Amount, v.Part, v.Used, v.UsedHere = float64(l.Limit), float64(l.Share), &used, &usedHere
	return v
}

func viewOfLimits(s *cluster.Status) (state string, out []sharedLimitView) {
	switch {
	case !s.SharesLimits:
		state = "node"
	case s.EqualShares:
		state = "equal_shares"
	default:
		state = "shared"
	}
	for i := range s.Limits {
		out = append(out, viewOfLimit(&s.Limits[i]))
	}
	return state, out
}
