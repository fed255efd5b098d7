package metrics

// ObserveResting sets the function that returns the numbers of resting pairs of a proxy and a host, and of proxies that
// are banned for all hosts. It is called at each scrape.
func (r *Recorder) ObserveResting(resting func() (pairs, banned int)) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.resting = resting
}

var (
	restingDesc = desc("resting_pairs", "pairs of a proxy and a target host that refuses it, which rest")
	bannedDesc  = desc("banned_proxies", "proxies that are banned for all hosts")
)
