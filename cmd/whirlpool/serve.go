package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
)

// options holds the flags of the command serve.
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
	listeners, err := passedSockets(os.Getenv)
	if err != nil {
		return err
	}
	listeners.override(o.source.Overrides)
	loading := time.Now()
	cfg, err := config.Load(o.source)
	if err != nil {
		return fmt.Errorf("the configuration is not valid\n%w", err)
	}
	log, level, output, done := openLog(cfg.Log, logTo)
	defer done() // the error could only be logged
	defer boundMemory(ctx, log)()
	program, err := os.Executable()
	if err != nil {
		program = ""
	}
	g, err := wire(o.source, cfg, log, level, output, program)
	if err != nil {
		return err
	}
	defer g.plugins.Close()
	defer g.keeper.close()
	defer g.access.close()
	inForce := g.fingerprintSince(loading)
	if err := listeners.listen(ctx, cfg.Gateway.Listen, cfg.API.Listen); err != nil {
		return err
	}
	g.engine.ForbidAddress(listeners.api.Addr())
	g.address = listeners.gateway.Addr().String()
	g.lists.Use(cfg.Lists())
	defer g.lists.Close()
	select {
	case <-g.lists.Changed(): // the fetcher has kept versions of lists
		g.reload()
	default:
	}
	if cfg.Log.Format == "json" { // then programs read the log, and often the standard output, too
		g.log.Info("listening", slog.String("gateway", g.address), slog.String("api", listeners.api.Addr().String()),
			slog.Int("proxies", g.cfg.ProxyCount()), slog.String("state", g.keeper.path()),
			slog.String("version", version))
	} else {
		greet(out, address(cfg.GatewayTLS(), g.address), address(cfg.APITLS() != nil, listeners.api.Addr().String()),
			g.keeper.path(), g.cfg.ProxyCount(), demo)
	}
	if demo != nil {
		go demo.Drive(ctx, g.address)
	}
	failed := make(chan error, 2)
	go func() { failed <- g.engine.Serve(listeners.gateway) }()
	go func() { failed <- g.api.Serve(listeners.api) }()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		g.log.Warn("no notifications of file changes: files are checked every "+lookEvery.String(),
			slog.Any("error", err))
	}
	stopWatch := watch(g, watcher, inForce)
	defer stopWatch()
	for {
		select {
		case err := <-failed:
			if err != nil {
				return err
			}
		case <-g.lists.Changed():
			go g.reload()
		case <-ctx.Done():
			return g.drain(0, signals)
		case s := <-signals:
			if s == syscall.SIGHUP {
				go g.reload() // in a goroutine, so that the next signal is handled
				continue
			}
			return g.leave(s, signals)
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

// greet prints the addresses of the gateway, the dashboard and the API, and the state folder.
func greet(out io.Writer, gateway, api, state string, proxies int, demo *lab.Demo) {
	fmt.Fprintf(out, "gateway    %s   (%d proxies)\n", gateway, proxies)
	fmt.Fprintf(out, "dashboard  %s/   API %s/api/v1\n", api, api)
	if state == "" {
		state = "none: changes through the API last until the restart"
	}
	fmt.Fprintf(out, "state      %s\n", state)
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

// grace returns the time within which requests in flight must end after a signal.
func (g *gateway) grace() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Duration(g.cfg.Gateway.DrainGrace)
}

// sameSignal is the time within which a second signal counts as the first one: timeout(1) sends its signal
// to the process and then to its process group.
const sameSignal = 100 * time.Millisecond

// settleTime is the time for which the gateway waits, after it has closed its listener, for requests on
// connections that have none. It waits only if the socket was passed to it, because another process then
// accepts the new clients, which do not notice the wait.
const settleTime = time.Second

// wantedPoll is the interval at which a draining process checks whether another one waits for its state
// folder.
const wantedPoll = 20 * time.Millisecond

// leave ends the gateway after a signal. After SIGTERM it first waits for gateway.drain_delay. During the
// delay the gateway accepts clients, but is not ready (/readyz). If there is a state folder, changes
// through the API fail from the signal on, and a process that waits for the folder gets it. A second signal
// ends the process at once.
func (g *gateway) leave(s os.Signal, signals <-chan os.Signal) error {
	g.mu.Lock()
	delay := time.Duration(g.cfg.Gateway.DrainDelay)
	g.mu.Unlock()
	if s != syscall.SIGTERM {
		delay = 0
	}
	g.log.Info("draining", slog.String("signal", s.String()), slog.String("delay", delay.String()),
		slog.String("grace", g.grace().String()))
	return g.drain(delay, signals)
}

// drain continues to serve for the time delay. Then it waits for the requests in flight, at most for the
// grace period.
func (g *gateway) drain(delay time.Duration, signals <-chan os.Signal) error {
	begun := time.Now()
	g.engine.Leave()
	g.plugins.Freeze()
	g.keeper.freeze()
	over := time.After(delay)
	look := time.NewTicker(wantedPoll)
	defer look.Stop()
	done := make(chan struct{})
	for shutting := false; ; {
		select {
		case <-over:
			if !shutting {
				shutting = true
				go g.shutdown(done)
			}
		case <-done:
			return nil
		case <-look.C:
			if g.keeper.wanted() {
				g.keeper.close()
			}
		case s := <-signals:
			if s != syscall.SIGHUP && time.Since(begun) > sameSignal {
				return errors.New("stopped by a second signal")
			}
		}
	}
}

// shutdown ends the servers within the grace period, and then closes done.
func (g *gateway) shutdown(done chan<- struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), g.grace())
	defer cancel()
	if !socketsPassed(os.Getenv) {
		g.engine.Shutdown(ctx)
		g.api.Shutdown(ctx)
		close(done)
		return
	}
	settled, stop := context.WithTimeout(ctx, settleTime)
	g.engine.StopAccepting(settled)
	stop()
	var api sync.WaitGroup
	api.Go(func() { g.api.Shutdown(ctx) }) // at the same time, because new connections belong to the new process
	g.engine.Shutdown(ctx)
	api.Wait()
	close(done)
}
