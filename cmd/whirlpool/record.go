package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/plugins/simulate"
)

// keyVariable holds a key of the API, where it has some: on the command line
// everybody could see it.
const keyVariable = "WHIRLPOOL_API_KEY"

func recordCommand() *cobra.Command {
	var api string
	var every, length time.Duration
	cmd := &cobra.Command{
		Use: "record FILE", Short: "Record a running gateway as a trace for simulate",
		Long: `Record a running gateway as a trace for plugin simulate: how its proxies do, as
GET /api/v1/proxies shows it, until the time is over or it is interrupted. A key
of the API, where it has some, is taken from ` + keyVariable + `.`,
		Example: "  whirlpool plugin record today.jsonl --for 8h --every 30s",
		RunE: func(cmd *cobra.Command, args []string) error {
			if every <= 0 || length < every {
				return usage("--every %v and --for %v: both must be above 0, --for not the shorter", every, length)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			g := &watchedGateway{url: strings.TrimSuffix(api, "/") + "/api/v1/proxies", key: os.Getenv(keyVariable),
				client: &http.Client{Timeout: 10 * time.Second}}
			// That it can be written is seen before the time is spent.
			_, err := os.Stat(args[0])
			fresh := errors.Is(err, fs.ErrNotExist)
			f, err := os.OpenFile(args[0], os.O_CREATE|os.O_WRONLY, 0o666)
			if err != nil {
				return usageError{err}
			}
			f.Close()
			t, err := g.record(ctx, every, length, cmd.ErrOrStderr())
			if err != nil {
				if fresh {
					os.Remove(args[0])
				}
				return err
			}
			if err := writeTrace(args[0], t); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d proxies in %.0f s, %.3g attempts a second\n", args[0],
				len(t.Proxies), t.Duration, t.Rate)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&api, "api", "http://127.0.0.1:8889", "`URL` of the gateway's API")
	f.DurationVar(&every, "every", 5*time.Second, "time from look to look")
	f.DurationVar(&length, "for", 10*time.Minute, "length of the recording")
	return cmd
}

// watchedGateway is a gateway that is looked at through its API.
type watchedGateway struct {
	url, key string
	client   *http.Client
}

// record looks at once and then every so often. The first look must succeed;
// one that fails later is told and left out.
func (g *watchedGateway) record(ctx context.Context, every, length time.Duration, tell io.Writer) (*simulate.Trace,
	error) {
	begin := time.Now()
	r := simulate.NewRecorder(float64(begin.UnixNano()) / 1e9)
	proxies, err := g.look(ctx)
	if err != nil {
		return nil, err
	}
	r.Look(0, proxies)
	fmt.Fprintf(tell, "recording %d proxies for %v, or until it is interrupted ...\n", len(proxies), length)
	tick := time.NewTicker(every)
	defer tick.Stop()
	end := time.NewTimer(length)
	defer end.Stop()
	for more := true; more; {
		select {
		case <-tick.C:
		case <-end.C:
			more = false
		case <-ctx.Done():
			more = false
		}
		// The last look is for the interrupted as well.
		if proxies, err = g.look(context.WithoutCancel(ctx)); err != nil {
			fmt.Fprintln(tell, "whirlpool: left out:", err)
			continue
		}
		r.Look(time.Since(begin).Seconds(), proxies)
	}
	return r.Trace()
}

func (g *watchedGateway) look(ctx context.Context) ([]simulate.Seen, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url, nil)
	if err != nil {
		return nil, usageError{err}
	}
	if g.key != "" {
		q.Header.Set("Authorization", "Bearer "+g.key)
	}
	a, err := g.client.Do(q)
	if err != nil {
		return nil, fmt.Errorf("no gateway answers; --api says where its API is: %w", err)
	}
	defer a.Body.Close()
	if a.StatusCode == http.StatusUnauthorized {
		return nil, fmt.Errorf("%s wants a key: put one of [[api.keys]] into %s", g.url, keyVariable)
	}
	if a.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", g.url, a.Status)
	}
	var body struct {
		Proxies []simulate.Seen `json:"proxies"`
	}
	if err := json.NewDecoder(a.Body).Decode(&body); err != nil {
		return nil, errors.New(g.url + " is no API of a gateway: " + err.Error())
	}
	return body.Proxies, nil
}
