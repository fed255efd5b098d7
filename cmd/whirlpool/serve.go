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

// options holds the flags of the command serve.
type options struct {
	source     config.Source
	demo       bool
	cpuProfile string
}

// serve runs the gateway until a signal or ctx ends it, or until it fails.
func serve(ctx context.Context, o options, out, logTo io.Writer) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE) // if the program that reads the log ends, a later record must not end this process
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
	growth := memory.NewGrowth(os.Getenv("GOGC"), debug.SetGCPercent)
	loaded := growth.Begin(memory.Free)
	cfg, err := config.Load(o.source)
	if err != nil {
		return fmt.Errorf("the configuration is not valid\n%w", err)
	}
	log, level, output, done := openLog(cfg.Log, logTo, foldedMessages(cfg)...)
	defer done() // its error is ignored: the log, which would report it, is closed
	defer boundMemory(ctx, log)()
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
	loaded()
	defer g.plugins.Close()
	defer g.keeper.close()
	defer g.access.close()
	defer g.traces.Close()
	defer g.cluster.close()
	defer g.push.Close()
	inForce := g.fingerprintSince(loading)
	if err := listeners.listen(ctx, cfg.Gateway.Listen, cfg.API.Listen); err != nil {
		return err
	}
	g.engine.ForbidAddress(listeners.api.Addr())
	g.address = listeners.gateway.Addr().String()
	g.push.Configure(cfg.PushSettings())
	g.lists.Use(cfg.Lists())
	defer g.lists.Close()
	select {
	case <-g.lists.Changed(): // the fetcher has lists that an earlier process kept
		g.reload()
	default:
	}
	if cfg.Log.Format == "json" { // programs read this log, and often the standard output, too
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
	alive, stop := watchdog(g.log)
	defer stop()
	notify(g.log, daemon.SdNotifyReady)
	for {
		select {
		case <-alive:
			notify(g.log, daemon.SdNotifyWatchdog)
		case err := <-failed:
			if err != nil {
				return err
			}
		case <-g.lists.Changed():
			go g.reload()
		case <-ctx.Done():
			return g.drain(0, signals, alive)
		case s := <-signals:
			if s == syscall.SIGHUP {
				go g.reload() // in a goroutine, so that the loop handles the next signal
				continue
			}
			return g.leave(s, signals, alive)
		}
	}
}

// address returns the URL of the listener at hostPort. tls is set if the listener has TLS.
func address(tls bool, hostPort string) string {
	if tls {
		return "https://" + hostPort
	}
	return "http://" + hostPort
}

// greet prints the addresses of the gateway, the dashboard and the API, and the path of the state folder.
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

// profile writes a CPU profile to a file until stop is called. If file is "", it writes no profile.
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

// use adds the proxies of the demo to the configuration, and each setting of the demo that no flag sets.
func (o *options) use(demo *lab.Demo) {
	o.source.URLs = append(o.source.URLs, demo.Proxies()...)
	for key, value := range demo.Settings() {
		if _, set := o.source.Overrides[key]; !set {
			o.source.Overrides[key] = value
		}
	}
}

// grace returns the grace period (gateway.drain_grace): the maximum time for which a draining gateway waits for the
// requests in flight.
func (g *gateway) grace() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Duration(g.cfg.Gateway.DrainGrace)
}

// sameSignal is the time after a first signal within which a second signal is ignored. timeout(1) sends one signal
// twice: to the process, and then to its process group.
const sameSignal = 100 * time.Millisecond

// settleTime is the time for which the gateway waits for requests on idle client connections after it has closed its
// listener. The gateway waits only if its sockets were passed to it, because another process then accepts the new
// clients without a gap.
const settleTime = time.Second

// wantedPoll is the interval at which a draining process checks whether another process waits for its state folder.
const wantedPoll = 20 * time.Millisecond

// leave ends the gateway after the signal s. After SIGTERM it first waits for gateway.drain_delay. During this delay
// the gateway accepts clients, but reports that it is not ready (/readyz). If there is a state folder, changes
// through the API fail from the signal on, and the folder is unlocked for a process that waits for it. A second
// signal ends the process immediately.
func (g *gateway) leave(s os.Signal, signals <-chan os.Signal, alive <-chan time.Time) error {
	g.mu.Lock()
	delay := time.Duration(g.cfg.Gateway.DrainDelay)
	g.mu.Unlock()
	if s != syscall.SIGTERM {
		delay = 0
	}
	g.log.Info("draining", slog.String("signal", s.String()), slog.String("delay", delay.String()),
		slog.String("grace", g.grace().String()))
	return g.drain(delay, signals, alive)
}

// drain continues to serve clients for the time delay. Then it waits for the requests in flight, for at most the grace
// period. Whenever it receives a value from the channel alive, it notifies the watchdog of the service manager.
func (g *gateway) drain(delay time.Duration, signals <-chan os.Signal, alive <-chan time.Time) error {
	notify(g.log, daemon.SdNotifyStopping)
	g.engine.Leave()
	g.plugins.Freeze()
	g.keeper.freeze()
	begun := time.Now()
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
		case <-alive:
			notify(g.log, daemon.SdNotifyWatchdog)
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

// shutdown ends the servers of the gateway and the API within the grace period, and then closes the channel done.
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
	api.Go(func() { g.api.Shutdown(ctx) }) // together with the gateway: the new process gets the new connections
	g.engine.Shutdown(ctx)
	api.Wait()
	close(done)
}
