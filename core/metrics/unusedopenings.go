package metrics

import (
	"math"
	"sync"
	"time"
)

// unusedOpenings counts the breaker openings of proxies that have had no attempt, as long as all openings of a proxy
// are within one hour. Many proxies of a long list cannot be reached; each of them takes only 40 bytes here. All other
// proxies are in Recorder.proxies.
type unusedOpenings struct {
	mu   sync.Mutex // also held while an entry is added to Recorder.proxies
	byID map[string]openings
}

// openings counts the openings of a breaker within an hour.
type openings struct {
	hour         uint32 // since the Unix epoch
	count, saved uint16 // saved is the value of count at the last Save
}

// countOpening counts an opening of the breaker of a proxy.
func (r *Recorder) countOpening(id string, at time.Time) {
	r.unusedOpenings.mu.Lock()
	n, hour := r.unusedOpenings.byID[id], uint32(at.Unix()/3600)
	if r.findProxy(id) == nil && (n.count == 0 || n.hour == hour && n.count < math.MaxUint16) {
		defer r.unusedOpenings.mu.Unlock()
		n.hour = hour
		n.count++
		r.unusedOpenings.setOpenings(id, n)
		return
	}
	p := r.addProxy(id)
	r.unusedOpenings.mu.Unlock()
	p.countOpening(at)
}

// The caller of setOpenings holds mu.
func (o *unusedOpenings) setOpenings(id string, n openings) {
	if o.byID == nil {
		o.byID = map[string]openings{}
	}
	o.byID[id] = n
}

// each calls f for each proxy whose breaker opened in the hours from first to last, both included. It passes the id of
// the proxy and the number of these openings to f.
func (o *unusedOpenings) each(first, last int64, f func(id string, n uint64)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, n := range o.byID {
		if int64(n.hour) >= first && int64(n.hour) <= last {
			f(id, uint64(n.count))
		}
	}
}

// prune deletes the openings of proxies that are not in the pool, except openings in the hours from first to last.
func (o *unusedOpenings) prune(first, last int64, inPool func(id string) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, n := range o.byID {
		if (int64(n.hour) < first || int64(n.hour) > last) && !inPool(id) {
			delete(o.byID, id)
		}
	}
}

// proxyOpenings are the openings of the breaker of the proxy with the given id.
type proxyOpenings struct {
	id string
	openings
}

// save returns the openings since the hour oldest. Unless the argument all is true, it returns only those that have
// changed since the last call.
func (o *unusedOpenings) save(all bool, oldest int64) (list []proxyOpenings) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, n := range o.byID {
		if (all || n.count != n.saved) && int64(n.hour) >= oldest {
			n.saved = n.count
			o.byID[id] = n
			list = append(list, proxyOpenings{id, n})
		}
	}
	return list
}

// restoreOpenings sets the openings of a proxy from a row of Saved.Hours. If unusedOpenings cannot hold the row, for
// example because it has attempts, restoreOpenings sets nothing and returns false. The row then belongs in
// Recorder.proxies.
func (r *Recorder) restoreOpenings(id string, row []int64) bool {
	r.unusedOpenings.mu.Lock()
	defer r.unusedOpenings.mu.Unlock()
	n := openings{uint32(row[0]), uint16(row[5]), uint16(row[5])}
	before, found := r.unusedOpenings.byID[id]
	otherHour := found && before.hour != n.hour
	if row[1] != 0 || row[5] > math.MaxUint16 || row[5] < 0 || r.findProxy(id) != nil || otherHour {
		return false
	}
	r.unusedOpenings.setOpenings(id, n)
	return true
}
