package metrics

// SetBanSource sets a function that is called at each scrape. The function returns the number of banned pairs of a
// proxy and a host, and the number of proxies that are banned for all hosts.
func (r *Recorder) SetBanSource(count func() (pairs, banned int)) {
	r.sources.mu.Lock()
	defer r.sources.mu.Unlock()
	r.sources.banCounts = count
}

var (
	bannedPairsDesc = newDesc("resting_pairs", "pairs of a proxy and a target host that refuses it, which rest")
	bannedDesc      = newDesc("banned_proxies", "proxies that are banned for all hosts")
)
