package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/core/socket"
)

// options are the flags of serve.
type options struct {
	source     config.Source
	demo       bool
	cpuProfile string
}

// serve runs the gateway until a signal ends it.
func serve(ctx context.Context, o options, out, logTo io.Writer) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE) // if the reader of the log ends, the next record must not end the process
	stopProfile, err := profile(o.cpuProfile)
	if err != nil {
		return err
	}
	defer stopProfile()
	var demo *lab.Demo
	if o.demo {
		if demo, err = lab.StartDemo(); err != nil {
			return err
		}
		defer demo.Close()
		o.use(demo)
	}
	loading := time.Now()
	cfg, err := config.Load(o.source)
	if err != nil {
		return fmt.Errorf("the configuration is not valid\n%w", err)
	}
	log, level, done := openLog(cfg.Log, logTo)
	defer done() // its error can only be logged
	defer boundMemory(ctx, log)()
	program, err := os.Executable()
	if err != nil {
		program = ""
	}
	g, err := wire(o.source, cfg, log, level, program)
	if err != nil {
		return err
	}
	defer g.plugins.Close()
	defer g.keeper.close()
	inForce := g.fingerprintSince(loading)
	proxyListener, err := socket.Listen(ctx, cfg.Gateway.Listen)
	if err != nil {
		return fmt.Errorf("gateway.listen: %w; set another address with --listen HOST:PORT", err)
	}
	apiListener, err := net.Listen("tcp", cfg.API.Listen)
	if err != nil {
		proxyListener.Close()
		return fmt.Errorf("api.listen: %w; set another address with --api HOST:PORT", err)
	}
	g.engine.ForbidAddress(apiListener.Addr())
	g.address = proxyListener.Addr().String()
	if cfg.Log.Format == "json" { // a program reads the log, and often the standard output, too
		g.log.Info("listening", slog.String("gateway", g.address), slog.String("api", apiListener.Addr().String()),
			slog.Int("proxies", cfg.ProxyCount()), slog.String("version", version))
	} else {
		greet(out, address(cfg.GatewayTLS(), g.address), address(cfg.APITLS() != nil, apiListener.Addr().String()),
			cfg.ProxyCount(), demo)
	}
	if demo != nil {
		go demo.Drive(ctx, g.address)
	}
	failed := make(chan error, 2)
	go func() { failed <- g.engine.Serve(proxyListener) }()
	go func() { failed <- g.api.Serve(apiListener) }()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		g.log.Warn("no notifications of file changes: files are checked every "+lookEvery.String(),
			slog.Any("error", err))
	}
	stopWatch := watch(g, watcher, inForce)
	defer stopWatch()
	g.lists.Use(cfg.Lists())
	defer g.lists.Close()
	for {
		select {
		case err := <-failed:
			if err != nil {
				return err
			}
		case <-g.lists.Changed():
			go g.reload()
		case <-ctx.Done():
			return g.drain(signals)
		case s := <-signals:
			if s == syscall.SIGHUP {
				go g.reload() // in a goroutine, so that the next signal is handled
				continue
			}
			g.log.Info("draining", slog.String("signal", s.String()), slog.String("grace", g.grace().String()))
			return g.drain(signals)
		}
	}
}

// address returns the URL of a listener.
func address(tls bool, hostPort string) string {
	if tls {
		return "https://" + hostPort
	}
	return "http://" + hostPort
}

// greet prints the addresses of the gateway, the dashboard and the API.
func greet(out io.Writer, gateway, api string, proxies int, demo *lab.Demo) {
	fmt.Fprintf(out, "gateway    %s   (%d proxies)\n", gateway, proxies)
	fmt.Fprintf(out, "dashboard  %s/   API %s/api/v1\n", api, api)
	if proxies == 0 {
		fmt.Fprintln(out, "no proxies yet: give --proxies FILE, --proxy URL, [[proxies]] in koanf.toml or POST "+
			"/api/v1/proxies; --demo brings some of its own")
	}
	if demo != nil {
		fmt.Fprintf(out, "try        curl -i -x %s %s\n", gateway, demo.URL())
	}
}

// profile writes a CPU profile to a file until stop is called; "" writes none.
func profile(file string) (stop func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

// use adds the demo's proxies, and its settings unless a flag sets them.
func (o *options) use(demo *lab.Demo) {
	o.source.URLs = append(o.source.URLs, demo.Proxies()...)
	for key, value := range demo.Settings() {
		if _, set := o.source.Overrides[key]; !set {
			o.source.Overrides[key] = value
		}
	}
}

// grace returns the time that requests in flight have to end after a signal.
func (g *gateway) grace() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Duration(g.cfg.Gateway.DrainGrace)
}

// sameSignal is the time within which a second signal counts as the same one. timeout(1) signals the process
// and then its process group.
const sameSignal = 100 * time.Millisecond

// drain waits for the requests in flight, for at most the grace period. A second signal ends the process at once.
func (g *gateway) drain(signals <-chan os.Signal) error {
	ctx, cancel := context.WithTimeout(context.Background(), g.grace())
	defer cancel()
	begun := time.Now()
	done := make(chan struct{})
	go func() {
		g.engine.Shutdown(ctx)
		g.api.Shutdown(ctx)
		close(done)
	}()
	for {
		select {
		case <-done:
			return nil
		case s := <-signals:
			if s != syscall.SIGHUP && time.Since(begun) > sameSignal {
				return errors.New("stopped by a second signal")
			}
		}
	}
}
