// Package cluster lets several gateways, the nodes, share data over a [Store]: the breakers of proxies that fail for
// all nodes, the probes of these breakers, bans, suspect targets, and changes by the API.
//
// # No request waits
//
// A request reads local memory only. The observations of a node are collected and sent in the background: [Node.Run]
// makes at most two exchanges with the store per [minExchange], of which one is urgent. An exchange is one round trip.
// If the store does not respond within [Config.Timeout], the node goes on alone, with the data that it has.
//
// # Breakers
//
// Each node has its own evidence, which opens its own breaker (package evidence). A node for which a proxy fails
// shares a view: its evidence and its number of failures, as shares of the amounts that open a breaker. If an attempt
// of another node has succeeded through the proxy since the first of these failures, that node shares the success: its
// view contradicts the failures. The breaker of the proxy opens on all nodes if
//
//   - the views that support the opening add up to the evidence and the failures that one breaker needs,
//   - these views come from at least two nodes, or from one node if only one is alive and not isolated,
//   - no node contradicts, and each has had the time to contradict (openDelay).
//
// A node is isolated if its open breakers are contradicted for more than half of the proxies that it has used in the
// last minute. It is also isolated if its attempts succeed at no target, and it suspects a target at which attempts of
// another node succeed. The views of an isolated node do not count. Its own breakers are open, because its attempts
// fail.
//
// # Probes
//
// If a breaker is open for the cluster, its probe needs the lease of the proxy: at most one node has the lease, for a
// limited time. The fencing number increases with each lease. On the node, the time of the lease counts from the moment
// at which the node asked for it, so the lease ends on the node before it ends in the store. A result of a probe whose
// lease has ended changes nothing, on the node or in the store.
//
// # Merging
//
// docs/cluster.md has the rules by which the two sides of a partition are merged.
package cluster
