package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Demo is a pool of six proxies of different quality, with light traffic. It shows failover. Every tunnel through
// these proxies leads to the same target: to its http:// server if the tunnel is for port 80, otherwise to its https://
// server. The certificate of this target is self-signed, so curl needs the option -k.
type Demo struct {
	url     string
	http    net.Listener
	https   net.Listener
	proxies []*Proxy
	lines   []string
}

// StartDemo starts the proxies and the target of a demo on free ports of 127.0.0.1.
func StartDemo() (*Demo, error) {
	d := &Demo{}
	var err error
	if d.http, d.https, err = startTarget(); err != nil {
		return nil, err
	}
	flaky := func(int, *http.Request) Behaviour {
		if isOneIn(3) {
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
		{"flaky", "region=eu", flaky, false},
		{"slow", "region=ap", Always(Slow(250 * time.Millisecond)), false},
		{"dead", "region=ap", Always(OK()), true},
	} {
		proxy, err := Start(p.name, "127.0.0.1:0", func(n int, q *http.Request) Behaviour {
			b := p.script(n, q)
			b.TunnelTo = d.https.Addr().String()
			if strings.HasSuffix(q.RequestURI, ":80") {
				b.TunnelTo = d.http.Addr().String()
			}
			return b
		})
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

// Proxies returns the proxies as lines of a proxy list.
func (d *Demo) Proxies() []string { return d.lines }

// Settings returns the configuration of the demo, by key. Its values make failover and recovery visible within
// seconds.
func (d *Demo) Settings() map[string]any {
	return map[string]any{
		"retry.base_delay": 0.1, "breaker.timeout_duration": "10s", "state.dir": "", "log.level": "warn",
	}
}

// URL returns the URL that Drive requests.
func (d *Demo) URL() string { return d.url }

// Drive sends at most five requests a second through the gateway, whose address is host:port. It returns when ctx
// ends.
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
		for _, p := range d.proxies {
			if p.Count() > maxArrivals { // recorded arrivals take memory, and a demo may run for days
				p.Clear()
			}
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

// maxArrivals is the number of recorded requests of a proxy above which Drive deletes the records.
const maxArrivals = 1000

// startTarget starts an http:// and an https:// server on free ports of 127.0.0.1, and returns their listeners.
func startTarget() (plain, encrypted net.Listener, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"demo.example"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	if plain, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}
	if encrypted, err = tls.Listen("tcp", "127.0.0.1:0", config); err != nil {
		plain.Close()
		return nil, nil, err
	}
	s := &http.Server{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "origin\n") }),
		ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
	}
	go s.Serve(plain)
	go s.Serve(encrypted)
	return plain, encrypted, nil
}

// Close stops the proxies and the target.
func (d *Demo) Close() {
	d.http.Close()
	d.https.Close()
	for _, p := range d.proxies {
		p.Close()
	}
}
