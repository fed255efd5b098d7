package executor

import (
	"log/slog"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Route sets q.Route to the routing rules that are applied to q. The caller calls it once, after Host, Target,
// Method, User and Path have been set, and before Run. Without routing rules, Route costs one atomic load.
func (e *Executor) Route(q *Request) {
	if set := e.tuning.Load().Rules; set.HasRoutingRules() {
		facts := q.ruleRequest()
		q.Route = set.Route(&facts)
	}
}

// Rules returns the rules in force; nil if there are none.
func (e *Executor) Rules() *rules.Set { return e.tuning.Load().Rules }

// ruleRequest returns the parts of the request that rules can match.
func (r *Request) ruleRequest() rules.Request {
	return rules.Request{Host: r.Host, Port: portOf(r.Target.Name), Method: r.Method, Path: r.Path, User: r.User}
}

// applyRoute sets the fields of the query and of the exchange that depend on the wanted region and the route.
func (ex *Exchange) applyRoute() {
	q, query := ex.request, &ex.query
	region, strict, regions := q.Region, q.RegionStrict, q.Regions
	query.Direct, query.Tag, query.TagPreferred = false, q.PreferredTag, true
	if w := q.Route.WayRule(); w != nil {
		if query.Direct = w.Direct; w.TagHash != 0 { // the rule's tag replaces the request's PreferredTag
			query.Tag, query.TagPreferred = w.TagHash, w.Prefer
		}
		switch {
		case w.Region == "":
		case w.Prefer: // the region of the request replaces the rule's region
			if region == "" {
				region = w.Region
			}
		case strict && core.RegionHash(region) != core.RegionHash(w.Region):
			// the client and the rule permit different regions
			regions = core.NoRegions()
		default:
			region, strict = w.Region, true
		}
	}
	if region != "" && !strict && !regions.Has(core.RegionHash(region)) {
		region = "" // the wanted region is not among the permitted regions
	}
	ex.region = region
	query.Regions, query.RegionHash, query.RegionMode = regions, 0, selector.RegionScored
	query.PlainRegion = upstream.PlainRegion(region)
	if region != "" {
		query.RegionHash, query.RegionMode = core.RegionHash(region), selector.RegionPreferred
		if strict {
			query.RegionMode = selector.RegionStrict
		}
	}
}

// recordRoute records the routing rules that are applied to the request.
func (ex *Exchange) recordRoute() {
	q := ex.request
	if q.Route.IsEmpty() {
		return
	}
	q.Route.Count()
	if q.Progress != nil {
		q.Progress.SetRules(q.Route.Labels())
	}
}

// deniedByRule reports whether a rule denies the request. If so, it sets the refusal.
func (ex *Exchange) deniedByRule() bool {
	w := ex.request.Route.DenyingRule()
	if w == nil {
		return false
	}
	ex.result.Final = core.FinalDeniedByRule
	ex.setRefusal(Denied)
	ex.refusal.Err = &rules.DeniedError{Label: w.Label}
	ex.log(slog.LevelInfo, "request denied by a rule", nil, slog.String("rule", w.Label))
	return true
}
