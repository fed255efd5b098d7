package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// The commands in this file work with the proxies of a running gateway.

func proxiesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "proxies", Short: "List, add and remove the proxies of a running gateway",
		Long: `List, add and remove the proxies of a running gateway. With a [state] dir the changes are kept
over a restart; whirlpool state show lists them.`,
	}
	cmd.AddCommand(listProxiesCommand(), addProxiesCommand(), drainCommand(), undrainCommand(), banCommand(),
		unbanCommand(), testProxyCommand(), resetCommand(), deleteCommand(), restoreCommand(), groupsCommand())
	return cmd
}

// proxyRow has the fields of a proxy in GET /proxies that the commands show.
type proxyRow struct {
	ID          string     `json:"id"`
	URL         string     `json:"url"`
	Region      string     `json:"region"`
	Source      string     `json:"source"`
	Breaker     string     `json:"state"`
	Draining    bool       `json:"draining"`
	Unreached   bool       `json:"unreached"`
	InFlight    int        `json:"in_flight"`
	Uses        uint64     `json:"uses"`
	SuccessRate float64    `json:"success_rate"`
	Samples     int        `json:"samples"`
	AvgLatency  float64    `json:"avg_latency"` // s
	BannedUntil *time.Time `json:"banned_until"`
}

// The method state returns one of proxyStates. If the proxy gets no requests because it is draining, banned or
// unreached, the method returns this reason. Otherwise it returns the state of the proxy's breaker.
func (p *proxyRow) state() string {
	switch {
	case p.Draining:
		return "draining"
	case p.BannedUntil != nil:
		return "banned"
	case p.Breaker == "closed" && p.Unreached:
		return "unreached"
	}
	return p.Breaker
}

// proxyStates are the possible results of proxyRow.state.
var proxyStates = []string{"closed", "open", "half_open", "unreached", "banned", "draining"}

// listStates are the states by which the API lists proxies: proxyStates, and failing. A failing proxy may be in any of
// the other states.
var listStates = append([]string{stateFailing}, proxyStates...)

const stateFailing = "failing"

// proxyOrders maps each column to the order in which the table is sorted by it. The proxies that need the user's
// attention come first.
var proxyOrders = map[string]func(a, b *proxyRow) int{
	"id":        func(a, b *proxyRow) int { return strings.Compare(a.ID, b.ID) },
	"state":     func(a, b *proxyRow) int { return cmp.Compare(attentionRank(b.state()), attentionRank(a.state())) },
	"region":    func(a, b *proxyRow) int { return strings.Compare(a.Region, b.Region) },
	"in_flight": func(a, b *proxyRow) int { return cmp.Compare(b.InFlight, a.InFlight) },
	"uses":      func(a, b *proxyRow) int { return cmp.Compare(b.Uses, a.Uses) },
	"success":   func(a, b *proxyRow) int { return cmp.Compare(a.SuccessRate, b.SuccessRate) },
	"latency":   func(a, b *proxyRow) int { return cmp.Compare(b.AvgLatency, a.AvgLatency) },
}

// attentionRank returns the rank of a state. The state with the largest rank needs the user's attention most.
func attentionRank(state string) int {
	return slices.Index([]string{"closed", "draining", "banned", "unreached", "half_open", "open"}, state)
}

// sortNames are the keys of proxyOrders, in the order of the columns.
var sortNames = []string{"id", "state", "region", "in_flight", "uses", "success", "latency"}

// proxyFilter holds the flags of the command `proxies list`. Other commands have a part of them (addFlags).
type proxyFilter struct {
	state, region, vendor, reason, match, sort string
	limit                                      int
}

// addFlags adds the flags that select proxies.
func (f *proxyFilter) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.state, "state", "", "only proxies in this `STATE`: "+strings.Join(listStates, ", "))
	flags.StringVar(&f.region, "region", "", "only proxies of this `REGION`")
	flags.StringVar(&f.vendor, "vendor", "", "only proxies of this `VENDOR`")
	flags.StringVar(&f.reason, "reason", "", "only proxies that fail for this `REASON`, as status shows it")
	flags.StringVar(&f.match, "match", "", "only proxies with this `TEXT` in their id or URL")
	completeWords(cmd, "state", listStates)
	completeGroups(cmd, "region")
	completeGroups(cmd, "vendor")
	completeGroups(cmd, "reason")
}

func (f *proxyFilter) check() error {
	for _, flag := range []struct {
		name, value string
		words       []string
	}{{"--state", f.state, listStates}, {"--sort", f.sort, sortNames}} {
		if err := checkWord(flag.name, flag.value, flag.words); err != nil {
			return err
		}
	}
	if f.limit < 0 {
		return usageErrorf("--limit must be at least 0")
	}
	return nil
}

func (f *proxyFilter) matches(p *proxyRow) bool {
	return (f.state == "" || f.state == stateFailing || p.state() == f.state) &&
		(f.region == "" || strings.EqualFold(p.Region, f.region)) &&
		(f.match == "" || strings.Contains(strings.ToLower(p.ID+" "+p.URL), strings.ToLower(f.match)))
}

func listProxiesCommand() *cobra.Command {
	var f proxyFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List the proxies with their state, success rate and latency",
		Example: "  whirlpool proxies list --state open --sort latency\n  whirlpool proxies list --region DE --json\n" +
			"  whirlpool proxies list --reason \"403 at shop.example\" # as in whirlpool status",
	}
	f.addFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.sort, "sort", "id", "sort by `COLUMN`: "+strings.Join(sortNames, ", "))
	flags.IntVar(&f.limit, "limit", 0, "at most `N` proxies; 0 for all")
	completeWords(cmd, "sort", sortNames)
	return gatewayCommand(cmd, func(r *remote, _ []string) error {
		if err := f.check(); err != nil {
			return err
		}
		rows, raw, err := f.readRows(r)
		if err != nil {
			return err
		}
		status, err := r.api.Status(r.context())
		if _, err = r.addAdvice(err); err != nil {
			return err
		}
		total := max(status.Proxies.Total, len(rows)) // the pool may have changed since the list was read
		if len(rows) == 0 && total > 0 && f.region != "" {
			if err := r.checkRegion(f.region); err != nil {
				return err
			}
		}
		return r.print(map[string]any{"proxies": raw, "total": total}, func(w io.Writer) {
			printProxies(w, rows)
			if len(rows) < total {
				fmt.Fprintf(w, "%d of %d proxies\n", len(rows), total)
			}
		})
	})
}

// pageSize is the number of proxies that one request to the API reads. It is the maximum that the API permits.
const pageSize = 1000

// apiOrders maps the name of a column to the value of the API's parameter sort. The column state is missing, because
// the API does not sort by all states of proxyRow.state.
var apiOrders = map[string]string{"id": "id", "region": "region", "in_flight": "-in_flight", "uses": "-uses",
	"success": "success_rate", "latency": "-avg_latency"}

// readRows reads the proxies that match the flags, page by page until the limit is reached, and sorts them. Its second
// result is the complete JSON of each proxy. The API lists a proxy under each of its states, but the table shows only
// one state (proxyRow.state). For this reason, readRows filters the proxies in the responses again (matches).
func (f *proxyFilter) readRows(r *remote) (rows []*proxyRow, raw []json.RawMessage, err error) {
	list := client.List{Region: f.region, Vendor: f.vendor, Reason: f.reason, Text: f.match,
		Sort: apiOrders[f.sort], Limit: pageSize}
	if f.state != "" {
		list.State = []string{f.state}
	}
	hasEnough := func() bool {
		return f.limit > 0 && len(rows) >= f.limit && list.Sort != "" && list.Sort == apiOrders[f.sort]
	}
	if f.limit > 0 && f.state == "" && f.match == "" && list.Sort != "" {
		list.Limit = min(f.limit, pageSize)
	}
	if f.limit == 0 || f.limit > pageSize {
		list.Sort = "id" // an order that does not change while the pages are read
	}
	rawRows := map[*proxyRow]json.RawMessage{}
	for more := true; more && !hasEnough(); {
		var page struct {
			Proxies []json.RawMessage `json:"proxies"`
			client.Page
		}
		if _, err := r.addAdvice(r.api.Do(r.context(), "GET", "/proxies", list.Query(), nil, &page)); err != nil {
			return nil, nil, err
		}
		for _, text := range page.Proxies {
			p := &proxyRow{}
			if err := json.Unmarshal(text, p); err != nil {
				return nil, nil, err
			}
			if f.matches(p) {
				rows = append(rows, p)
				rawRows[p] = text
			}
		}
		list.Cursor, more = page.Next, page.Next != ""
	}
	slices.SortStableFunc(rows, proxyOrders[f.sort])
	if f.limit > 0 {
		rows = rows[:min(len(rows), f.limit)]
	}
	raw = make([]json.RawMessage, len(rows))
	for i, p := range rows {
		raw[i] = rawRows[p]
	}
	return rows, raw, nil
}

func printProxies(w io.Writer, rows []*proxyRow) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tSTATE\tREGION\tIN FLIGHT\tUSES\tSUCCESS\tLATENCY\tURL")
	for _, p := range rows {
		success, latency := "-", "-"
		if p.Samples > 0 {
			success = fmt.Sprintf("%.1f %%", 100*p.SuccessRate)
			latency = milliseconds(p.AvgLatency)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", p.ID, p.state(), cmp.Or(p.Region, "-"), p.InFlight, p.Uses,
			success, latency, p.URL)
	}
	t.Flush() // Flush fails only if a write to the output fails
}

// milliseconds returns a number of seconds as a text in milliseconds. Between 0 and 10 ms it has one decimal place.
func milliseconds(seconds float64) string {
	ms, digits := 1000*seconds, 0
	if ms > 0 && ms < 10 {
		digits = 1
	}
	return fmt.Sprintf("%.*f ms", digits, ms)
}

// checkWord returns a usageError unless the value of a flag is empty or an element of words.
func checkWord(flag, value string, words []string) error {
	if value == "" || slices.Contains(words, value) {
		return nil
	}
	return usageErrorf("%s %q: must be one of %s%s", flag, value, strings.Join(words, ", "),
		strict.DidYouMean(value, words))
}
