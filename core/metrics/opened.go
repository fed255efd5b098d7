package metrics

import (
	"math"
	"sync"
	"time"
)

// opened counts the openings of the breakers of proxies without attempts, within one hour. A long list has many of
// them, because most proxies of a published list cannot be reached. Such a proxy takes 40 bytes here. A proxy with an
// attempt, or with openings in several hours, has an entry in Recorder.proxies in its place.
type opened struct {
	mu   sync.Mutex // also held while an entry is added to Recorder.proxies
	byID map[string]openings
}

// openings counts the openings of a breaker within an hour.
type openings struct {
	hour     uint32 // since the Unix epoch
	n, saved uint16 // saved is the value of n at the last Save
}

// open counts an opening of the breaker of a proxy.
func (r *Recorder) open(id string, at time.Time) {
	r.opened.mu.Lock()
	n, hour := r.opened.byID[id], uint32(at.Unix()/3600)
	if r.find(id) == nil && (n.n == 0 || n.hour == hour && n.n < math.MaxUint16) {
		defer r.opened.mu.Unlock()
		n.hour = hour
		n.n++
		r.opened.set(id, n)
		return
	}
	p := r.add(id)
	r.opened.mu.Unlock()
	p.open(at)
}

// set sets the openings of a proxy. The caller holds mu.
func (o *opened) set(id string, n openings) {
	if o.byID == nil {
		o.byID = map[string]openings{}
	}
	o.byID[id] = n
}

// within calls f with the openings of each proxy in the hours from first to last, both included.
func (o *opened) within(first, last int64, f func(id string, n uint64)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, n := range o.byID {
		if int64(n.hour) >= first && int64(n.hour) <= last {
			f(id, uint64(n.n))
		}
	}
}

// forget deletes the openings outside of the hours from first to last of proxies that are not in the pool.
func (o *opened) forget(first, last int64, inPool func(id string) bool) {
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

// save returns openings, as proxy.save does.
func (o *opened) save(all bool, oldest int64) (list []proxyOpenings) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, n := range o.byID {
		if (all || n.n != n.saved) && int64(n.hour) >= oldest {
			n.saved = n.n
			o.byID[id] = n
			list = append(list, proxyOpenings{id, n})
		}
	}
	return list
}

// restore sets the openings of a proxy from a row of Saved.Hours. It returns false if the row has attempts, or if the
// proxy has had attempts or openings in another hour.
func (r *Recorder) restore(id string, row []int64) bool {
	r.opened.mu.Lock()
	defer r.opened.mu.Unlock()
	n := openings{uint32(row[0]), uint16(row[5]), uint16(row[5])}
	before, found := r.opened.byID[id]
	if row[1] != 0 || row[5] > math.MaxUint16 || row[5] < 0 || r.find(id) != nil || found && before.hour != n.hour {
		return false
	}
	r.opened.set(id, n)
	return true
}
