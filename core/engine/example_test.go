package engine_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

func ExampleEngine_Transport() {
	// One proxy responds in place of the target. The other proxy of the pool refuses connections.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello from ", r.Host)
	}))

	cfg := engine.DefaultConfig()
	cfg.Retry.FailoverDelay = new(float64) // so that another proxy is tried at once
	cfg.Reachability = false               // otherwise a check finds the dead proxy before the request does
	for _, proxy := range []string{"http://127.0.0.1:1", "http://" + l.Addr().String()} {
		address, err := upstream.ParseAddress(proxy)
		if err != nil {
			panic(err)
		}
		cfg.Proxies = append(cfg.Proxies, upstream.Spec{Address: address})
	}
	registry, err := plugins.New(plugins.Options{Log: slog.Default()}) // the built-in ones
	if err != nil {
		panic(err)
	}
	defer registry.Close()
	e, err := engine.New(cfg, engine.Options{Plugins: registry})
	if err != nil {
		panic(err)
	}
	defer e.Shutdown(context.Background())

	client := &http.Client{Transport: e.Transport()}
	r, err := client.Get("http://example.org/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	fmt.Println(string(body), r.Header.Get("X-Whirlpool-Attempts"))
	// Output: hello from example.org 2
}
