package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/fsnotify/fsnotify"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lab"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/memory"
)

// serveOptions are the flags of the command serve.
type serveOptions struct {
	source     config.Source
	demo       bool
	cpuProfile string
}

// serve runs the gateway until a signal or ctx ends it, or until it fails.
func serve(ctx context.Context, o serveOptions, out, logOutput io.Writer) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE) // if the program that reads the log ends, a later record must not end this process
	stopProfile, err := startProfile(o.cpuProfile)
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
		o.addDemo(demo)
	}
	listeners, err := passedSockets(os.Getenv)
	if err != nil {
		return err
	}
	listeners.setAddresses(o.source.Overrides)
	loadStart := time.Now()
	growth := memory.NewGrowth(os.Getenv("GOGC"), debug.SetGCPercent)
	endLoading := growth.BeginLoading(memory.Free)
	cfg, err := config.Load(o.source)
	if err != nil {
		return fmt.Errorf("the configuration is not valid\n%w", err)
	}
	log, level, output, closeLog := openLog(cfg.Log, logOutput, logRules(cfg)...)
	defer closeLog() // the error cannot be reported: the log is closed
	defer limitMemory(ctx, log, growth)()
	program, err := os.Executable()
	if err != nil {
		program = ""
	}
	g, err := wire(o.source, cfg, log, level, output, program)
	if err != nil {
		return err
	}
	g.growth = growth
	growth.SetProxies(len(g.engine.Pool().Snapshot().All))
	endLoading()
	defer g.plugins.Close()
	defer g.state.close()
	defer g.accessLog.close()
	defer g.traces.Close()
	defer g.cluster.close()
	defer g.push.Close()
	loadedFiles := g.fingerprintSince(loadStart)
	if err := listeners.listen(ctx, cfg.Gateway.Listen, cfg.API.Listen); err != nil {
		return err
	}
	g.engine.ForbidAddress(listeners.api.Addr())
	g.address = listeners.gateway.Addr().String()
	g.push.Configure(cfg.PushSettings())
	g.lists.SetSources(cfg.Lists())
	defer g.lists.Close()
	select {
	case <-g.lists.Changed(): // the fetcher has loaded lists that an earlier process saved
		g.reload()
	default:
	}
	if cfg.Log.Format == "json" { // a program that reads the log probably also reads the standard output
		g.log.Info("listening", slog.String("gateway", g.address), slog.String("api", listeners.api.Addr().String()),
			slog.Int("proxies", g.cfg.ProxyCount()), slog.String("state", g.state.path()),
			slog.String("version", version))
	} else {
		printAddresses(out, listenerURL(cfg.GatewayTLS(), g.address),
			listenerURL(cfg.APITLS() != nil, listeners.api.Addr().String()),
			g.state.path(), g.cfg.ProxyCount(), demo)
	}
	if demo != nil {
		go demo.Drive(ctx, g.address)
	}
	serveErrors := make(chan error, 2)
	go func() { serveErrors <- g.engine.Serve(listeners.gateway) }()
	go func() { serveErrors <- g.api.Serve(listeners.api) }()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		g.log.Warn("no notifications of file changes: files are checked every "+checkInterval.String(),
			slog.Any("error", err))
	}
	stopWatch := watchFiles(g, watcher, loadedFiles)
	defer stopWatch()
	watchdogTicks, stop := watchdog(g.log)
	defer stop()
	notify(g.log, daemon.SdNotifyReady)
	for {
		select {
		case <-watchdogTicks:
			notify(g.log, daemon.SdNotifyWatchdog)
		case err := <-serveErrors:
			if err != nil {
				return err
			}
		case <-g.lists.Changed():
			go g.reload()
		case <-ctx.Done():
			return g.drain(0, signals, watchdogTicks)
		case s := <-signals:
			if s == syscall.SIGHUP {
				go g.reload() // in a goroutine, so that the loop handles the next signal
				continue
			}
			return g.drainAfter(s, signals, watchdogTicks)
		}
	}
}

// listenerURL returns the URL of the listener at hostPort: an https:// URL if the listener has TLS.
func listenerURL(tls bool, hostPort string) string {
	if tls {
		return "https://" + hostPort
	}
	return "http://" + hostPort
}

func printAddresses(out io.Writer, gateway, api, state string, proxies int, demo *lab.Demo) {
	fmt.Fprintf(out, "gateway    %s   (%s)\n", gateway, plural(proxies, "proxy"))
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

// startProfile writes a CPU profile to a file until stop is called. If file is "", it does nothing.
func startProfile(file string) (stop func(), err error) {
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

// addDemo adds the proxies of the demo, and its settings that no flag sets.
func (o *serveOptions) addDemo(demo *lab.Demo) {
	o.source.URLs = append(o.source.URLs, demo.Proxies()...)
	for key, value := range demo.Settings() {
		if _, set := o.source.Overrides[key]; !set {
			o.source.Overrides[key] = value
		}
	}
}

// drainGrace returns gateway.drain_grace: the maximum time for which a draining gateway waits for the requests in
// flight.
func (g *gateway) drainGrace() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Duration(g.cfg.Gateway.DrainGrace)
}

// repeatedSignal is the time after a first signal within which a second signal is ignored. timeout(1) sends one signal
// twice: to the process, and then to its process group.
const repeatedSignal = 100 * time.Millisecond

// lastRequestWait is the time for which the gateway still accepts requests on idle client connections after it has
// closed its listener. This time is used only if the sockets were passed to the gateway, because another process then
// accepts the new clients.
const lastRequestWait = time.Second

// stateCheckInterval is the interval at which a draining process checks stateKeeper.isWanted.
const stateCheckInterval = 20 * time.Millisecond

// drainAfter ends the gateway after a signal. After SIGTERM it first waits for gateway.drain_delay. During this delay
// the gateway accepts clients, but reports that it is not ready (/readyz). If there is a state folder, changes through
// the API fail from now on, and the folder is unlocked when another process waits for it. A second signal ends the
// process immediately.
func (g *gateway) drainAfter(s os.Signal, signals <-chan os.Signal, watchdogTicks <-chan time.Time) error {
	g.mu.Lock()
	delay := time.Duration(g.cfg.Gateway.DrainDelay)
	g.mu.Unlock()
	if s != syscall.SIGTERM {
		delay = 0
	}
	g.log.Info("draining", slog.String("signal", s.String()), slog.String("delay", delay.String()),
		slog.String("grace", g.drainGrace().String()))
	return g.drain(delay, signals, watchdogTicks)
}

// The method drain lets the gateway serve new clients until the delay has passed. Then it waits for the requests in
// flight, for at most drainGrace. For each value from watchdogTicks, it notifies the watchdog of the service manager.
func (g *gateway) drain(delay time.Duration, signals <-chan os.Signal, watchdogTicks <-chan time.Time) error {
	notify(g.log, daemon.SdNotifyStopping)
	g.engine.AnnounceDrain()
	g.cluster.drain()
	g.plugins.FreezeUploads()
	g.state.freeze()
	start := time.Now()
	delayEnd := time.After(delay)
	stateCheck := time.NewTicker(stateCheckInterval)
	defer stateCheck.Stop()
	done := make(chan struct{})
	for isShuttingDown := false; ; {
		select {
		case <-delayEnd:
			if !isShuttingDown {
				isShuttingDown = true
				go g.shutdown(done)
			}
		case <-done:
			return nil
		case <-watchdogTicks:
			notify(g.log, daemon.SdNotifyWatchdog)
		case <-stateCheck.C:
			if g.state.isWanted() {
				g.state.close()
			}
		case s := <-signals:
			if s != syscall.SIGHUP && time.Since(start) > repeatedSignal {
				return errors.New("stopped by a second signal")
			}
		}
	}
}

// shutdown ends the servers of the gateway and the API within drainGrace, and then closes the given channel.
func (g *gateway) shutdown(done chan<- struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), g.drainGrace())
	defer cancel()
	if !socketsPassed(os.Getenv) {
		g.engine.Shutdown(ctx)
		g.api.Shutdown(ctx)
		close(done)
		return
	}
	lastRequests, stop := context.WithTimeout(ctx, lastRequestWait)
	g.engine.StopAccepting(lastRequests)
	stop()
	var api sync.WaitGroup
	api.Go(func() { g.api.Shutdown(ctx) }) // now, so that new clients of the API go to the new process
	g.engine.Shutdown(ctx)
	api.Wait()
	close(done)
}
