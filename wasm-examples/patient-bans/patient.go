package main

import (
	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/hash"
	"github.com/whirlpool-proxy/whirlpool/sdk/judge"
	"github.com/whirlpool-proxy/whirlpool/sdk/lru"
)

// patient is a judge. When a host bans a proxy, the proxy is not chosen for this host for a time (the rest). Each rest
// is twice as long as the previous one, up to a maximum. After a request through the proxy has succeeded at the host,
// the next rest is as short as the first one.
type patient struct {
	first, most float64        // the shortest and the longest rest, s
	bans        *lru.Map[rest] // the key is the hash of a proxy and a host
}

// rest is the latest time in which a proxy is not chosen for a host. It is zero if a request through the proxy has
// succeeded at the host since.
type rest struct {
	began, length float64
}

const maxBans = 4096

// Configure implements configure.Configurer.
func (p *patient) Configure(s *configure.Settings) error {
	p.first = s.Float("first", 60, 1, 86400)
	p.most = s.Float("most", 3600, 1, 86400)
	p.bans = lru.New[rest](maxBans)
	return nil
}

// Wants implements judge.Wanter. The judge rules on 403 and 429, which are bans, and on 2xx, after which the next rest
// is as short as the first one.
func (p *patient) Wants() judge.Wants {
	return judge.Wants{Statuses: []judge.Range{{First: 200, Last: 299}, {First: 403, Last: 403}, {First: 429,
		Last: 429}}}
}

// Judge implements judge.Judge.
func (p *patient) Judge(r *judge.Response) judge.Ruling {
	pair := hash.Pair(r.IDHash, r.HostHash)
	if r.Status < 300 {
		if last := p.bans.Get(pair); last != nil {
			*last = rest{}
		}
		return judge.Ruling{}
	}
	last := p.bans.Put(pair)
	switch {
	case last.length == 0:
		*last = rest{r.Now, min(p.first, p.most)}
	case r.Now >= last.began+last.length: // false if the response arrived during the rest
		*last = rest{r.Now, min(2*last.length, p.most)}
	}
	return judge.Ruling{Kind: judge.Banned, Rest: last.length}
}

// Observe does nothing. With this method, the module exports the function observe. The host runs such a module as a
// single instance, so all calls share the same bans.
func (p *patient) Observe(*abi.Observation) {}
