package metrics

import (
	"math"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// CostState holds the traffic and the cost of a vendor or user at the time of a scrape.
type CostState struct {
	Name     string
	Up, Down int64 // bytes sent to proxies, and received from them
	Cost     float64
}

// CostStates are the costs at the time of a scrape.
type CostStates struct{ Vendors, Users []CostState }

// maxLabelled is the maximum number of vendors that have their own time series of metrics. It is also the maximum
// number of users that have them.
const maxLabelled = 1_000

// SetCostSource sets the function that returns the costs. It is called at each scrape.
func (r *Recorder) SetCostSource(costs func() CostStates) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.costs = costs
}

var (
	vendorBytesDesc = newDesc("vendor_bytes_total", "bytes on connections to the proxies of a vendor", "vendor",
		"direction")
	vendorCostDesc = newDesc("vendor_cost_total", "cost of the proxies of a vendor", "vendor")
	userBytesDesc  = newDesc("user_bytes_total", "bytes on connections to proxies for a user", "user", "direction")
	userCostDesc   = newDesc("user_cost_total", "cost of the proxies for a user", "user")
)

func (c *CostStates) collect(out chan<- prometheus.Metric) {
	collectCosts(out, c.Vendors, vendorBytesDesc, vendorCostDesc)
	collectCosts(out, c.Users, userBytesDesc, userCostDesc)
}

func collectCosts(out chan<- prometheus.Metric, list []CostState, bytes, cost *prometheus.Desc) {
	for _, s := range list[:min(len(list), maxLabelled)] {
		emit(out, bytes, prometheus.CounterValue, float64(s.Up), s.Name, "up")
		emit(out, bytes, prometheus.CounterValue, float64(s.Down), s.Name, "down")
		if s.Cost > 0 {
			emit(out, cost, prometheus.CounterValue, s.Cost, s.Name)
		}
	}
}

// costUnit is the value of minute.cost for a cost of 1.
const costUnit = 1e6

// lastCostTotal holds the total that the last call of CountCost received.
type lastCostTotal struct {
	mu       sync.Mutex // guards the fields below
	hasTotal bool
	total    float64
}

// CountCost adds the growth of the total cost since the last call to the current minute. The total includes the costs
// of earlier processes, so the first call only stores it.
func (r *Recorder) CountCost(total float64) {
	r.cost.mu.Lock()
	defer r.cost.mu.Unlock()
	if n := int64(math.Round((total - r.cost.total) * costUnit)); r.cost.hasTotal && n > 0 {
		r.minuteAt(r.now()).cost.Add(n)
		r.cost.total += float64(n) / costUnit // the rounding error is counted later
		return
	} else if r.cost.hasTotal && n == 0 {
		return
	}
	r.cost.hasTotal, r.cost.total = true, total
}
