// Package whirlpool sends the requests of a Go program through a pool of proxies, with retries and circuit breakers,
// and without a port or a configuration file:
//
//	t, err := whirlpool.New("http://user:password@a.example:8080", "socks5://b.example:1080")
//	if err != nil {
//		return err
//	}
//	defer t.Close()
//	client := &http.Client{Transport: t}
//
// A Transport has the defaults of the gateway. Programs that need other settings use package core/engine.
package whirlpool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// Transport is an http.RoundTripper that sends each request through a proxy of its pool. It is safe for concurrent use.
type Transport struct {
	http.RoundTripper
	engine  *engine.Engine
	plugins *plugins.Registry
}

// New returns a Transport that uses the given proxies, at least one. Each proxy has a form that the flag --proxy of the
// gateway accepts, such as host:port or socks5://user:password@host:port. The caller must close the Transport.
func New(proxies ...string) (*Transport, error) {
	if len(proxies) == 0 {
		return nil, errors.New("at least one proxy is required")
	}
	cfg := engine.DefaultConfig()
	for i, proxy := range proxies {
		spec, err := proxylist.ParseLine(proxy)
		if err != nil {
			return nil, fmt.Errorf("proxy %d: %w", i+1, err) // the text of proxy may contain a password
		}
		cfg.Proxies = append(cfg.Proxies, spec)
	}
	log := slog.New(slog.DiscardHandler)
	registry, err := plugins.New(plugins.Options{Log: log})
	if err != nil {
		return nil, err
	}
	e, err := engine.New(cfg, engine.Options{Plugins: registry, Log: log})
	if err != nil {
		registry.Close()
		return nil, err
	}
	return &Transport{e.Transport(), e, registry}, nil
}

// Close cancels the requests in flight and releases the resources of the Transport.
func (t *Transport) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // without a wait
	t.engine.Shutdown(ctx)
	t.plugins.Close()
}
