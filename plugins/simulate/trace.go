// Package simulate compares plugins with the built-ins in a simulation: scorers on a trace of
// proxies, backoffs in outages. Time is simulated, and random numbers come from a seed.
// `whirlpool plugin simulate` uses it.
package simulate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// Trace describes the proxies of a pool over time, and the requests.
//
// Its file format is JSON lines. An optional line without "proxy" describes the requests:
//
//	{"duration": 600, "rate": 20, "hosts": 8, "region": "EU", "start": 1767225600}
//
// Each other line describes a proxy from the time "at" until the proxy's next line. A value that is missing
// in a later line does not change:
//
//	{"proxy": "a", "at": 0, "success": 0.98, "latency": 0.05, "cost": 2, "weight": 1, "region": "EU"}
//	{"proxy": "a", "at": 300, "success": 0.4, "capacity": 8, "metadata": {"plan": "gold"}}
type Trace struct {
	Duration float64 // s; the default is 600, or the last "at" plus 60 if that is larger
	Rate     float64 // mean number of requests per second; default 20
	Hosts    int     // number of targets, with equal shares of the requests; default 8
	Region   string  // wanted region of all requests; "" for none
	Start    float64 // s since the Unix epoch; default 1767225600, 2026-01-01 00:00 UTC
	Proxies  []Proxy
}

// Proxy is one proxy of a trace.
type Proxy struct {
	ID, Region   string
	Weight, Cost float64
	Metadata     map[string]string
	States       []State // ordered by time; the first state begins at 0
}

// State is the behaviour of a proxy from the time At until the next state.
type State struct {
	At      float64 // s from the beginning
	Success float64 // probability of success, 0 to 1
	Latency float64 // mean latency, s; latencies differ from it by up to 20 %
	// Capacity is the number of attempts in flight that the proxy can serve; 0 for no limit. An attempt that begins
	// while more attempts are in flight is slower and succeeds less often, in proportion to the excess.
	Capacity float64
}

// The limits of a trace.
const (
	maxRequests   = 2_000_000
	maxCandidates = 100_000_000 // candidates: requests times proxies
	maxProxies    = 1000
	maxHosts      = 1000
)

const (
	defaultDuration = 600
	defaultRate     = 20
	defaultHosts    = 8
	defaultStart    = 1767225600
)

// traceLine is one line of a trace file.
type traceLine struct {
	Proxy    *string           `json:"proxy,omitempty"`
	At       *float64          `json:"at,omitempty"`
	Success  *float64          `json:"success,omitempty"`
	Latency  *float64          `json:"latency,omitempty"`
	Capacity *float64          `json:"capacity,omitempty"`
	Cost     *float64          `json:"cost,omitempty"`
	Weight   *float64          `json:"weight,omitempty"`
	Region   *string           `json:"region,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Duration *float64          `json:"duration,omitempty"`
	Rate     *float64          `json:"rate,omitempty"`
	Hosts    *int              `json:"hosts,omitempty"`
	Start    *float64          `json:"start,omitempty"`
}

// Read reads a trace. Its errors contain the line number.
func Read(r io.Reader) (*Trace, error) {
	t := &Trace{Rate: defaultRate, Hosts: defaultHosts, Start: defaultStart}
	at := map[string]int{} // index in t.Proxies, by id
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	n, last := 0, 0.0
	for s.Scan() {
		n++
		if len(bytes.TrimSpace(s.Bytes())) == 0 {
			continue
		}
		var l traceLine
		err := strict.DecodeJSON(s.Bytes(), &l)
		if err == nil && l.Proxy == nil {
			err = t.setRequests(&l)
		} else if err == nil {
			if l.At != nil {
				last = max(last, *l.At)
			}
			err = t.addProxyLine(at, &l)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	if t.Duration == 0 {
		t.Duration = max(defaultDuration, last+60)
	}
	return t, t.check()
}

func setIfGiven[T any](target *T, value *T) {
	if value != nil {
		*target = *value
	}
}

func (t *Trace) setRequests(l *traceLine) error {
	if l.At != nil || l.Success != nil || l.Latency != nil || l.Capacity != nil || l.Cost != nil || l.Weight != nil ||
		l.Metadata != nil {
		return errors.New("it describes a proxy, but \"proxy\" with its id is missing")
	}
	setIfGiven(&t.Duration, l.Duration)
	setIfGiven(&t.Rate, l.Rate)
	setIfGiven(&t.Hosts, l.Hosts)
	setIfGiven(&t.Region, l.Region)
	setIfGiven(&t.Start, l.Start)
	return nil
}

func (t *Trace) addProxyLine(at map[string]int, l *traceLine) error {
	if l.Duration != nil || l.Rate != nil || l.Hosts != nil || l.Start != nil {
		return errors.New("duration, rate, hosts and start belong to a line without \"proxy\"")
	}
	i, known := at[*l.Proxy]
	if !known {
		i = len(t.Proxies)
		at[*l.Proxy] = i
		t.Proxies = append(t.Proxies, Proxy{ID: *l.Proxy, Weight: 1})
	}
	p := &t.Proxies[i]
	setIfGiven(&p.Region, l.Region)
	setIfGiven(&p.Weight, l.Weight)
	setIfGiven(&p.Cost, l.Cost)
	if len(l.Metadata) > 0 {
		p.Metadata = l.Metadata
	}
	var s State
	if known {
		s = p.States[len(p.States)-1]
	} else if l.Success == nil || l.Latency == nil {
		return fmt.Errorf("the first line of proxy %q needs success and latency", p.ID)
	}
	setIfGiven(&s.Success, l.Success)
	setIfGiven(&s.Latency, l.Latency)
	setIfGiven(&s.Capacity, l.Capacity)
	before := s.At
	setIfGiven(&s.At, l.At)
	switch {
	case !(s.Success >= 0 && s.Success <= 1):
		return fmt.Errorf("success is %v; it must be 0 to 1", s.Success)
	case !(s.Latency > 0 && s.Latency <= 3600):
		return fmt.Errorf("latency is %v; it must be above 0 and at most 3600 seconds", s.Latency)
	case !(s.Capacity >= 0 && s.Capacity <= 1e6):
		return fmt.Errorf("capacity is %v; it must be 0 to 1e6", s.Capacity)
	case !(p.Weight > 0 && p.Weight <= 1e6), !(p.Cost >= 0 && p.Cost <= 1e12):
		return fmt.Errorf("weight must be above 0, at most 1e6; cost 0 to 1e12")
	case known && s.At <= before, !(s.At >= 0 && s.At < 1e9):
		return fmt.Errorf("at is %v; the lines of a proxy must be in the order of time, from 0 on", s.At)
	case !known && s.At > 0:
		return fmt.Errorf("the first line of proxy %q must be at 0, not %v", p.ID, s.At)
	}
	p.States = append(p.States, s)
	return nil
}

func (t *Trace) check() error {
	switch {
	case len(t.Proxies) == 0:
		return errors.New("the trace has no proxies")
	case len(t.Proxies) > maxProxies:
		return fmt.Errorf("the trace has %d proxies; at most %d are simulated", len(t.Proxies), maxProxies)
	case !(t.Duration > 0), !(t.Rate > 0), math.IsInf(t.Duration, 0), math.IsInf(t.Rate, 0):
		return fmt.Errorf("duration is %v and rate %v; both must be above 0", t.Duration, t.Rate)
	case t.Duration*t.Rate > maxRequests:
		return fmt.Errorf("duration %v at rate %v makes more than %d requests", t.Duration, t.Rate, maxRequests)
	case t.Duration*t.Rate*float64(len(t.Proxies)) > maxCandidates:
		return fmt.Errorf("%.0f requests among %d proxies are too many; take a shorter duration or a lower rate",
			t.Duration*t.Rate, len(t.Proxies))
	case t.Hosts < 1 || t.Hosts > maxHosts:
		return fmt.Errorf("hosts is %d; it must be 1 to %d", t.Hosts, maxHosts)
	case !(t.Start >= 0 && t.Start < 1e11):
		return fmt.Errorf("start is %v; it must be seconds since the Unix epoch", t.Start)
	}
	return nil
}

// Write writes the trace in the format of Read.
func (t *Trace) Write(w io.Writer) error {
	e := json.NewEncoder(w)
	head := traceLine{Duration: &t.Duration, Rate: &t.Rate, Hosts: &t.Hosts, Start: &t.Start}
	if t.Region != "" {
		head.Region = &t.Region
	}
	if err := e.Encode(head); err != nil {
		return err
	}
	for i := range t.Proxies {
		p := &t.Proxies[i]
		for n := range p.States {
			s := &p.States[n]
			l := traceLine{Proxy: &p.ID, At: &s.At, Success: &s.Success, Latency: &s.Latency, Capacity: &s.Capacity}
			if n == 0 {
				l.Cost, l.Weight, l.Metadata = &p.Cost, &p.Weight, p.Metadata
				if p.Region != "" {
					l.Region = &p.Region
				}
			}
			if err := e.Encode(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// stateAt returns the state at the time t, which must not decrease from call to call. *index is the index of the state
// that the last call returned.
func (p *Proxy) stateAt(t float64, index *int) State {
	for *index+1 < len(p.States) && p.States[*index+1].At <= t {
		*index++
	}
	return p.States[*index]
}

// Scenarios lists the traces that Generate can make.
var Scenarios = []struct{ Name, Shows string }{
	{"swap", "the best and the worst proxies change places halfway"},
	{"steady", "nothing changes"},
	{"outage", "the best proxy fails for the middle third"},
	{"drift", "the success rate of every proxy changes slowly"},
	{"equal", "all proxies are equal, and one attempt in twenty fails"},
	{"zipf", "few proxies are good: the n-th best succeeds in 1/n of the attempts of the best"},
	{"capacity", "all are equally good, up to a number of attempts in flight that differs between them"},
}

// Generate makes a trace from a specification. The specification is the name of a scenario, followed by settings with a
// comma before each. The settings and their defaults are proxies=5, duration=600, rate=20 and hosts=8. The parameter
// seed determines the random parts of the trace.
func Generate(spec string, seed uint64) (*Trace, error) {
	name, rest, _ := strings.Cut(spec, ",")
	t := &Trace{Duration: defaultDuration, Rate: defaultRate, Hosts: defaultHosts, Start: defaultStart}
	proxies := 5
	for rest != "" {
		var pair string
		pair, rest, _ = strings.Cut(rest, ",")
		key, text, _ := strings.Cut(pair, "=")
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not KEY=NUMBER", pair)
		}
		switch key {
		case "proxies":
			proxies = int(v)
		case "duration":
			t.Duration = v
		case "rate":
			t.Rate = v
		case "hosts":
			t.Hosts = int(v)
		default:
			return nil, fmt.Errorf("%q is none of proxies, duration, rate and hosts%s", key,
				strict.DidYouMean(key, []string{"proxies", "duration", "rate", "hosts"}))
		}
	}
	if proxies < 2 || proxies > maxProxies {
		return nil, fmt.Errorf("proxies is %d; it must be 2 to %d", proxies, maxProxies)
	}
	r := rand.New(rand.NewPCG(seed, 7))
	for i := range proxies {
		x := float64(i) / float64(proxies-1) // 0 for the best and most expensive proxy, 1 for the worst
		t.Proxies = append(t.Proxies, Proxy{
			ID: fmt.Sprintf("proxy-%d", i+1), Region: []string{"EU", "US"}[i%2], Weight: 1,
			Cost:   math.Round(10*(1-x)) / 10,
			States: []State{{Success: 0.98 - 0.5*x, Latency: 0.05 + 0.25*x}},
		})
	}
	switch name {
	case "steady":
	case "equal":
		for i := range t.Proxies {
			t.Proxies[i].States[0] = State{Success: 0.95, Latency: 0.1}
		}
	case "zipf":
		for i := range t.Proxies {
			t.Proxies[i].States[0] = State{Success: 0.98 / float64(i+1), Latency: 0.1}
		}
	case "capacity":
		for i := range t.Proxies { // the total capacity is 1.5 times the mean number of attempts in flight, or more
			t.Proxies[i].States[0] = State{Success: 0.98, Latency: 0.5,
				Capacity: max(1, math.Ceil(1.5*0.5*t.Rate/float64(proxies)))}
		}
	case "swap":
		for i := range t.Proxies {
			p, q := &t.Proxies[i], &t.Proxies[proxies-1-i]
			p.States = append(p.States, State{At: t.Duration / 2, Success: q.States[0].Success,
				Latency: q.States[0].Latency})
		}
	case "outage":
		p := &t.Proxies[0]
		normal := p.States[0]
		p.States = append(p.States, State{At: t.Duration / 3, Success: 0.02, Latency: 1},
			State{At: t.Duration * 2 / 3, Success: normal.Success, Latency: normal.Latency})
	case "drift":
		const steps = 60
		for i := range t.Proxies {
			s := t.Proxies[i].States[0]
			for n := 1; n < steps; n++ {
				s.At = t.Duration * float64(n) / steps
				s.Success = min(max(s.Success+0.1*(r.Float64()-0.5), 0.05), 0.99)
				t.Proxies[i].States = append(t.Proxies[i].States, s)
			}
		}
	default:
		var names []string
		for _, s := range Scenarios {
			names = append(names, s.Name)
		}
		return nil, fmt.Errorf("there is no scenario %q; there are %s%s", name, strings.Join(names, ", "),
			strict.DidYouMean(name, names))
	}
	return t, t.check()
}
