package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/top"
	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

func topCommand() *cobra.Command {
	interval, sort := 2*time.Second, "per_s"
	cmd := &cobra.Command{
		Use: "top", Short: "Show the proxies of a running gateway live, sorted by any column",
		Long: `Show the proxies of a running gateway live: their state, attempts per second, success rate and latency.
In a large pool, these are the first 200 proxies of the chosen order and filter.
Keys: left and right choose the column to sort by, r reverses, / filters, space pauses, q quits.`,
		Example: "  whirlpool top --sort success",
	}
	cmd.Flags().DurationVar(&interval, "interval", interval, "`TIME` between two requests to the API, at least 100ms")
	cmd.Flags().StringVar(&sort, "sort", sort, "sort by `COLUMN`: "+strings.Join(top.Columns(), ", "))
	completeWords(cmd, "sort", top.Columns())
	return gatewayCommand(cmd, func(r *remote, _ []string) error {
		if err := checkWord("--sort", sort, top.Columns()); err != nil {
			return err
		}
		if interval < 100*time.Millisecond {
			return usageErrorf("--interval must be at least 100ms")
		}
		if r.asJSON || !isTerminal(cmd.OutOrStdout()) {
			return usageErrorf("top needs a terminal; whirlpool status --json and whirlpool proxies list --json do not")
		}
		if _, err := r.readSnapshot(top.Query{Sort: sort}); err != nil {
			return err
		}
		_, err := tea.NewProgram(top.New(r.readSnapshot, interval, sort), tea.WithAltScreen(), tea.WithInput(os.Stdin),
			tea.WithOutput(cmd.OutOrStdout()), tea.WithContext(cmd.Context())).Run()
		if errors.Is(err, tea.ErrProgramKilled) || errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
}

// maxTopRows is the maximum number of proxies in a snapshot.
const maxTopRows = 200

// topOrders maps each column of top to the API's parameter sort. The API does not sort by attempts per second: for this
// column, the command top reads the proxies that were used last.
var topOrders = map[string]string{"proxy": "id", "state": "-state", "region": "region", "in_flight": "-in_flight",
	"per_s": "-last_used", "uses": "-uses", "success": "success_rate", "latency": "-avg_latency"}

// topParameters returns the API parameters with which the command top reads proxies. If the filter is the beginning of
// a state's name, it selects the proxies in this state. Otherwise it selects the proxies that contain its text.
func topParameters(q top.Query) client.List {
	l := client.List{Sort: topOrders[q.Sort], Limit: maxTopRows, Text: q.Filter}
	if q.Reversed {
		l.Sort = strings.TrimPrefix("-"+l.Sort, "--")
	}
	for _, state := range listStates {
		if q.Filter != "" && strings.HasPrefix(state, strings.ToLower(q.Filter)) {
			l.State, l.Text = append(l.State, state), ""
		}
	}
	return l
}

// readSnapshot reads the state of the gateway from the API, with the rows that q selects.
func (r *remote) readSnapshot(q top.Query) (*top.Snapshot, error) {
	var page struct{ Proxies []proxyRow }
	list := topParameters(q)
	if _, err := r.addAdvice(r.api.Do(r.context(), "GET", "/proxies", list.Query(), nil, &page)); err != nil {
		return nil, err
	}
	status, err := r.api.Status(r.context())
	if _, err = r.addAdvice(err); err != nil {
		return nil, err
	}
	requests := gatewayStatus{}
	if err := r.readRequests(&requests); err != nil {
		return nil, err
	}
	p := &status.Proxies
	s := &top.Snapshot{At: time.Now(), Gateway: r.api.Base.Host, Summary: status.Summary,
		Requests: requests.Requests.Requests, Served: requests.Requests.servedCount(),
		Attempts: requests.Requests.Attempts, Total: p.Total,
		States: map[string]int{"closed": p.Closed, "open": p.Open, "half_open": p.HalfOpen, "draining": p.Draining,
			"banned": p.Banned, "unreached": p.Unreached}}
	for i := range page.Proxies {
		p := &page.Proxies[i]
		s.Rows = append(s.Rows, top.Row{ID: p.ID, State: p.state(), Region: p.Region, InFlight: p.InFlight,
			Uses:    p.Uses,
			Success: p.SuccessRate, Samples: p.Samples, Attention: attentionRank(p.state()),
			Latency: time.Duration(p.AvgLatency * float64(time.Second))})
	}
	return s, nil
}
