package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/plugins/simulate"
)

func recordCommand() *cobra.Command {
	var interval, length time.Duration
	cmd := &cobra.Command{
		Use: "record FILE", Short: "Record a running gateway as a trace for simulate",
		Long: `Record a running gateway as a trace for plugin simulate: the state of its proxies
in GET /api/v1/proxies, until the time is over or the command is interrupted.`,
		Example: "  whirlpool plugin record today.jsonl --for 8h --every 30s",
	}
	f := cmd.Flags()
	f.DurationVar(&interval, "every", 5*time.Second, "`TIME` between two readings")
	f.DurationVar(&length, "for", 10*time.Minute, "`TIME` of the recording, such as 8h")
	gatewayCommand(cmd, func(r *remote, args []string) error {
		if interval <= 0 || length < interval {
			return usageErrorf("--every %v and --for %v: both must be above 0, and --for at least as long as --every",
				interval, length)
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		// If the file cannot be written, the command must fail before the recording, not after it.
		_, err := os.Stat(args[0])
		isNew := errors.Is(err, fs.ErrNotExist)
		file, err := os.OpenFile(args[0], os.O_CREATE|os.O_WRONLY, 0o666)
		if err != nil {
			return usageError{err}
		}
		file.Close()
		t, err := record(ctx, r, interval, length)
		if err != nil {
			if isNew {
				os.Remove(args[0])
			}
			return err
		}
		if err := writeTrace(args[0], t); err != nil {
			return err
		}
		summary := map[string]any{"proxies": len(t.Proxies), "duration": t.Duration, "rate": t.Rate}
		return r.print(summary, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %s in %.0f s, %.3g attempts a second\n", args[0], plural(len(t.Proxies), "proxy"),
				t.Duration, t.Rate)
		})
	})
	return cmd
}

// The function record reads the state of the proxies at the beginning, after each interval, and at the end. The
// recording ends after the given length of time, or when ctx ends. If the first reading fails, the function returns an
// error. If a later reading fails, the recording continues without this reading.
func record(ctx context.Context, g *remote, interval, length time.Duration) (*simulate.Trace, error) {
	begin := time.Now()
	r := simulate.NewRecorder(float64(begin.UnixNano()) / 1e9)
	proxies, err := readProxies(g)
	if err != nil {
		return nil, err
	}
	r.Record(0, proxies)
	g.printNote("recording %s for %v, or until it is interrupted ...", plural(len(proxies), "proxy"), length)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	end := time.NewTimer(length)
	defer end.Stop()
	for isRunning := true; isRunning; {
		select {
		case <-tick.C:
		case <-end.C:
			isRunning = false
		case <-ctx.Done():
			isRunning = false
		}
		if proxies, err = readProxies(g); err != nil { // an interrupt ends ctx, but not the context of g
			g.printNote("whirlpool: left out: %v", err)
			continue
		}
		r.Record(time.Since(begin).Seconds(), proxies)
	}
	return r.Trace()
}

func readProxies(g *remote) ([]simulate.ProxyState, error) {
	var body struct {
		Proxies []simulate.ProxyState `json:"proxies"`
	}
	_, err := g.send(request{method: "GET", path: "/proxies"}, &body)
	return body.Proxies, err
}
