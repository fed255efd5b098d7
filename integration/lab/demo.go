package lab

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Demo is six proxies of different quality and light traffic: what a newcomer
// sees failover with.
type Demo struct {
	url     string
	proxies []*Proxy
	lines   []string
}

// StartDemo starts it on free ports of 127.0.0.1.
func StartDemo() (*Demo, error) {
	d := &Demo{}
	third := func(int, *http.Request) Behaviour {
		if random(3) {
			return Status(503)
		}
		return OK()
	}
	for _, p := range []struct {
		name, options string
		script        Script
		refuse        bool
	}{
		{"alpha", "region=us&cost=1", Always(OK()), false},
		{"bravo", "region=us&cost=2", Always(Slow(5 * time.Millisecond)), false},
		{"charlie", "region=eu&cost=1", Always(Slow(10 * time.Millisecond)), false},
		{"flaky", "region=eu", third, false},
		{"slow", "region=ap", Always(Slow(250 * time.Millisecond)), false},
		{"dead", "region=ap", Always(OK()), true},
	} {
		proxy, err := Start(p.name, "127.0.0.1:0", p.script)
		if err != nil {
			d.Close()
			return nil, err
		}
		if p.refuse {
			proxy.Refuse()
		}
		d.proxies = append(d.proxies, proxy)
		d.lines = append(d.lines, "http://"+proxy.Addr+"#id="+p.name+"&"+p.options)
	}
	d.url = "http://demo.example/"
	return d, nil
}

// Proxies are the lab's proxies, as lines of a proxy list.
func (d *Demo) Proxies() []string { return d.lines }

// Settings make the demo brisk: a newcomer should not wait for the defaults.
func (d *Demo) Settings() map[string]any {
	return map[string]any{
		"retry.base_delay": 0.1, "breaker.timeout_duration": "10s", "state.dir": "", "log.level": "warn",
	}
}

// URL is what to ask for.
func (d *Demo) URL() string { return d.url }

// Drive sends a few requests a second through the gateway until ctx ends.
func (d *Demo) Drive(ctx context.Context, gateway string) {
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: gateway})}}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
		if err != nil {
			return
		}
		if r, err := client.Do(q); err == nil {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
	}
}

// Close stops the lab.
func (d *Demo) Close() {
	for _, p := range d.proxies {
		p.Close()
	}
}
