package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
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

// proxyOrders has the order of each column. The proxies that need the user's attention come first.
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

// proxyFilter holds the flags of the command `proxies list`.
type proxyFilter struct {
	state, region, match, sort string
	limit                      int
}

func (f *proxyFilter) check() error {
	for _, flag := range []struct {
		name, value string
		words       []string
	}{{"--state", f.state, proxyStates}, {"--sort", f.sort, sortNames}} {
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
	return (f.state == "" || p.state() == f.state) && (f.region == "" || strings.EqualFold(p.Region, f.region)) &&
		(f.match == "" || strings.Contains(strings.ToLower(p.ID+" "+p.URL), strings.ToLower(f.match)))
}

func listProxiesCommand() *cobra.Command {
	var f proxyFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List the proxies with their state, success rate and latency",
		Example: "  whirlpool proxies list --state open --sort latency\n  whirlpool proxies list --region DE --json",
	}
	flags := cmd.Flags()
	flags.StringVar(&f.state, "state", "", "only proxies in this `STATE`: "+strings.Join(proxyStates, ", "))
	flags.StringVar(&f.region, "region", "", "only proxies of this `REGION`")
	flags.StringVar(&f.match, "match", "", "only proxies with this `TEXT` in their id or URL")
	flags.StringVar(&f.sort, "sort", "id", "sort by `COLUMN`: "+strings.Join(sortNames, ", "))
	flags.IntVar(&f.limit, "limit", 0, "at most `N` proxies; 0 for all")
	completeWords(cmd, "state", proxyStates)
	completeWords(cmd, "sort", sortNames)
	completeRegions(cmd)
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
// result is the complete JSON of each proxy. readRows filters the proxies of the API again (matches), because the API
// lists a proxy under each of its states: a draining proxy may also be closed.
func (f *proxyFilter) readRows(r *remote) (rows []*proxyRow, raw []json.RawMessage, err error) {
	list := client.List{Region: f.region, Text: f.match, Sort: apiOrders[f.sort], Limit: pageSize}
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

// newProxy is the JSON of one proxy in the body of POST /proxies.
type newProxy struct {
	ID          string            `json:"id,omitempty"`
	URL         string            `json:"url"`
	Region      string            `json:"region,omitempty"`
	Tags        []string          `json:"tags,omitempty"`
	Weight      float64           `json:"weight,omitempty"`
	Cost        float64           `json:"cost,omitempty"`
	MaxInFlight int               `json:"max_in_flight,omitempty"`
	Rate        float64           `json:"rate,omitempty"`
	MinInterval string            `json:"min_interval,omitempty"`
	BytesPerDay int64             `json:"bytes_per_day,omitempty"`
	Tier        int               `json:"tier,omitempty"`
	Vendor      string            `json:"vendor,omitempty"`
	CostRequest float64           `json:"cost_per_request,omitempty"`
	CostGB      float64           `json:"cost_per_gb,omitempty"`
	Auth        string            `json:"auth,omitempty"`
	Reuse       *bool             `json:"reuse,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

func newProxyOf(s *upstream.Spec) (newProxy, error) {
	e := s.Extra()
	p := newProxy{ID: s.ID, URL: proxylist.Line(&upstream.Spec{Address: s.Address}), Region: s.Region,
		Tags: s.Tags, Weight: s.Weight, Cost: s.Cost, MaxInFlight: e.MaxInFlight, Rate: e.Rate,
		BytesPerDay: e.BytesPerDay, Tier: s.Tier, Vendor: e.Vendor, CostRequest: e.Price.Request,
		CostGB: e.Price.GB, Auth: e.Auth, Metadata: e.Metadata}
	if e.MinInterval != 0 {
		p.MinInterval = e.MinInterval.String()
	}
	if e.NoReuse {
		p.Reuse = new(bool)
	}
	if e.TLS != nil {
		return p, errors.New("TLS files are set in the configuration of the gateway only")
	}
	return p, nil
}

func addProxiesCommand() *cobra.Command {
	var o struct {
		file, scheme, id, region string
		noPersist                bool
	}
	cmd := &cobra.Command{
		Use: "add [PROXY...]", Short: "Add proxies to a gateway: all of them or, if one is invalid, none",
		Long: `Add proxies to a running gateway: all of them or, if one is invalid, none. PROXY is a line of a proxy
list, such as http://user:password@host:8080#region=DE. Other users of the machine can read the arguments
of a command; put credentials into a file, or into the standard input (--file -).`,
		Example: "  whirlpool proxies add http://10.0.0.5:3128 socks5://10.0.0.6:1080#region=DE\n" +
			"  whirlpool proxies add --file new.txt",
		Annotations: map[string]string{secretArgs: "true"},
	}
	f := cmd.Flags()
	f.StringVar(&o.file, "file", "", "proxy list: a `FILE`, or - for standard input")
	f.StringVar(&o.scheme, "scheme", "http", "`SCHEME` of lines without one: "+upstream.ProxySchemes)
	completeWords(cmd, "scheme", upstream.SchemeNames())
	f.StringVar(&o.id, "id", "", "`ID` of the proxy; of several, a text such as '{user}@{host}:{port}'")
	f.StringVar(&o.region, "region", "", "`REGION` of the proxies without one")
	f.BoolVar(&o.noPersist, "no-persist", false, "do not record the proxies: they are lost at the end of the process")
	return gatewayCommand(cmd, func(r *remote, args []string) error {
		text := strings.Join(args, "\n")
		if o.file != "" {
			if len(args) > 0 {
				return usageErrorf("proxies add takes PROXY arguments or --file, not both")
			}
			list, err := readInput(o.file, cmd.InOrStdin())
			if err != nil {
				return usageError{err}
			}
			text = string(list)
		}
		proxies, err := parseProxies(text, o.scheme, o.id)
		if err != nil {
			return err
		}
		for i := range proxies {
			proxies[i].Region = cmp.Or(proxies[i].Region, o.region)
		}
		return r.addProxies(proxies, !o.noPersist)
	})
}

// parseProxies parses the lines of a proxy list. It returns an error for the first wrong line. (The gateway skips the
// wrong lines in its proxy lists.) The id of a single proxy, or a template for the ids of several, is optional.
func parseProxies(text, scheme, id string) ([]newProxy, error) {
	if err := checkWord("--scheme", scheme, upstream.SchemeNames()); err != nil {
		return nil, err
	}
	specs, warnings, err := proxylist.Parse(strings.NewReader(text), proxylist.Options{Scheme: scheme})
	if err != nil {
		return nil, usageError{err}
	}
	if len(warnings) > 0 {
		return nil, usageErrorf("proxy %d: %s", warnings[0].Line, warnings[0].Msg)
	}
	if len(specs) == 0 {
		return nil, usageErrorf("there is no proxy: give PROXY, or --file with a proxy list")
	}
	switch template := upstream.IDTemplate(id); {
	case template.HasPlaceholder():
		if err := template.Check(); err != nil {
			return nil, usageErrorf("--id %w", err)
		}
		upstream.SetIDTemplate(specs, template)
		upstream.AssignIDs(specs)
	case id != "" && len(specs) > 1:
		return nil, usageErrorf("--id is for one proxy; there are %d: give a text with placeholders, such as "+
			"'{user}@{host}:{port}'", len(specs))
	case id != "":
		specs[0].ID = id
	}
	proxies := make([]newProxy, len(specs))
	for i := range specs {
		if proxies[i], err = newProxyOf(&specs[i]); err != nil {
			return nil, usageErrorf("proxy %d: %w", i+1, err)
		}
	}
	return proxies, nil
}

func (r *remote) addProxies(proxies []newProxy, persist bool) error {
	body, err := json.Marshal(map[string]any{"proxies": proxies, "persist": persist})
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if _, err := r.send(request{method: http.MethodPost, path: "/proxies", body: body},
		&raw); err != nil {
		return err
	}
	var added struct {
		Proxies []proxyRow `json:"proxies"`
	}
	if err := json.Unmarshal(raw, &added); err != nil {
		return err
	}
	return r.print(raw, func(w io.Writer) {
		for _, p := range added.Proxies {
			fmt.Fprintf(w, "%s is added: %s\n", p.ID, p.URL)
		}
	})
}

// forEachProxy makes cmd call the function change for each of its arguments, which are ids of proxies. The result of
// change is a text, such as "is draining". If a call fails, the command makes the remaining calls, and fails at the
// end.
func forEachProxy(cmd *cobra.Command, change func(r *remote, id string) (result string, err error)) *cobra.Command {
	return onProxiesInParallel(cmd, 1, change)
}

// outcome is the result of one call of the function change of onProxiesInParallel.
type outcome struct {
	done string
	err  error
}

// onProxiesInParallel is like forEachProxy, but up to the given number of calls run at the same time. The results are
// printed in the order of the arguments.
func onProxiesInParallel(
	cmd *cobra.Command, parallel int, change func(r *remote, id string) (done string, err error),
) *cobra.Command {
	cmd.ValidArgsFunction = completeProxies
	return gatewayCommand(cmd, func(r *remote, ids []string) error {
		type result struct {
			ProxyID string `json:"proxy_id"`
			Done    string `json:"done,omitempty"`
			Error   string `json:"error,omitempty"`
		}
		results, failedCount := make([]result, len(ids)), 0
		var lastErr error
		var called atomic.Int64
		outcomes := callInOrder(ids, parallel, func(id string) outcome {
			defer called.Add(1)
			done, err := change(r, id)
			return outcome{done, err}
		})
		live := parallel > 1 && len(ids) > 1 && isTerminal(cmd.ErrOrStderr())
		for i, id := range ids {
			results[i].ProxyID = id
			o := waitLive(outcomes[i], live, cmd.ErrOrStderr(), func() string {
				return fmt.Sprintf("%d of %d", called.Load(), len(ids))
			})
			switch {
			case o.err != nil:
				results[i].Error, lastErr = o.err.Error(), o.err
				failedCount++
				if len(ids) > 1 && !r.asJSON {
					r.printNote("%s: %s", id, o.err)
				}
			default:
				results[i].Done = o.done
				if !r.asJSON {
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", id, o.done)
				}
			}
		}
		if len(ids) == 1 && failedCount == 1 {
			return lastErr
		}
		err := r.print(map[string]any{"results": results}, func(io.Writer) {})
		if err == nil && failedCount > 0 {
			err = fmt.Errorf("%d of %d proxies failed", failedCount, len(ids))
		}
		return err
	})
}

func proxyPath(id string) string { return "/proxies/" + url.PathEscape(id) }

func drainCommand() *cobra.Command {
	return forEachProxy(&cobra.Command{
		Use: "drain ID...", Short: "Remove proxies after their attempts in flight have ended",
		Long: `Remove proxies: they get no new requests, and leave the pool when their attempts in flight have ended.
undrain brings a proxy of the configuration back.`,
	}, func(r *remote, id string) (string, error) {
		_, err := r.send(request{method: http.MethodDelete, path: proxyPath(id) + "?drain=true"}, nil)
		return "is draining", err
	})
}

func undrainCommand() *cobra.Command {
	return forEachProxy(&cobra.Command{
		Use: "undrain ID...", Short: "Bring back proxies of the configuration that drain or delete has removed",
		Long: `Bring back proxies of the configuration that drain or delete has removed: the recorded removal is
deleted, and the configuration is read again. Other changes of the file take effect, too. A proxy that add
has added is not in the configuration; add it again.`,
	}, func(r *remote, id string) (string, error) {
		key := url.Values{"key": {"proxy/" + id}}
		status, err := r.send(request{method: http.MethodDelete, path: "/state?" + key.Encode()}, nil)
		if err != nil && status != http.StatusNotFound { // not found: the API has no record of the removal
			return "", err
		}
		if _, err := r.reload(); err != nil {
			return "", err
		}
		var p proxyRow
		if status, err := r.send(request{method: http.MethodGet, path: proxyPath(id)}, &p); err != nil {
			if status == http.StatusNotFound {
				return "", fmt.Errorf("the configuration has no proxy %q; add it again: whirlpool proxies add", id)
			}
			return "", err
		}
		if p.Draining {
			return "", fmt.Errorf("the configuration has no proxy %q, so it goes on draining", id)
		}
		return "is in the pool again", nil
	})
}

func banCommand() *cobra.Command {
	var duration time.Duration
	host := ""
	cmd := &cobra.Command{
		Use: "ban ID...", Short: "Exclude proxies for a time, from all requests or from those for one host",
		Example: "  whirlpool proxies ban p1 p2 --for 1h\n  whirlpool proxies ban p1 --host shop.example",
	}
	cmd.Flags().DurationVar(&duration, "for", 10*time.Minute, "`TIME` of the ban: 1s to 720h, with --host 1s to 24h")
	cmd.Flags().StringVar(&host, "host", "", "ban for requests to this `HOST` only")
	return forEachProxy(cmd, func(r *remote, id string) (string, error) {
		in := map[string]string{"for": duration.String()}
		if host != "" {
			in["host"] = host
		}
		body, err := json.Marshal(in)
		if err != nil {
			return "", err
		}
		var ban struct{ Until time.Time }
		_, err = r.send(request{method: http.MethodPost, path: proxyPath(id) + "/ban", body: body},
			&ban)
		return "is banned" + hostSuffix(host) + " until " + ban.Until.Local().Format(time.DateTime), err
	})
}

func hostSuffix(host string) string {
	if host == "" {
		return ""
	}
	return " for " + host
}

func unbanCommand() *cobra.Command {
	host := ""
	cmd := &cobra.Command{Use: "unban ID...", Short: "End the ban of proxies, or their rest for one host"}
	cmd.Flags().StringVar(&host, "host", "", "end the ban for this `HOST` only")
	return forEachProxy(cmd, func(r *remote, id string) (string, error) {
		path := proxyPath(id) + "/ban"
		if host != "" {
			path += "?" + url.Values{"host": {host}}.Encode()
		}
		_, err := r.send(request{method: http.MethodDelete, path: path}, nil)
		return "is not banned any more" + hostSuffix(host), err
	})
}

// callInOrder calls the given function for each id. The parameter parallel is the maximum number of calls at the same
// time. The result has a channel for each id, in the order of ids, which receives the outcome of the call.
func callInOrder(ids []string, parallel int, call func(id string) outcome) []chan outcome {
	outcomes := make([]chan outcome, len(ids))
	for i := range outcomes {
		outcomes[i] = make(chan outcome, 1)
	}
	var next atomic.Int64
	for range min(parallel, len(ids)) {
		go func() {
			for i := next.Add(1) - 1; i < int64(len(ids)); i = next.Add(1) - 1 {
				outcomes[i] <- call(ids[i])
			}
		}()
	}
	return outcomes
}

// waitLive waits for an outcome. If live is set, waitLive shows the progress on the terminal w during the wait.
func waitLive(arrived <-chan outcome, live bool, w io.Writer, progress func() string) outcome {
	if !live {
		return <-arrived
	}
	defer fmt.Fprint(w, "\r\x1b[K")
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case o := <-arrived:
			return o
		case <-tick.C:
			fmt.Fprintf(w, "\r%s ", progress())
		}
	}
}

// parallelTests is the maximum number of proxies that `proxies test` tests at the same time.
const parallelTests = 16

// testTimeout is the time for the test of one proxy. It is longer than the gateway's own limits: at most 5m for
// health.timeout, 10m for timeouts.connect, and twice timeouts.connect for a connection to a SOCKS5 proxy.
const testTimeout = 21 * time.Minute

// testClient returns a client of the API whose requests have the timeout testTimeout.
func (r *remote) testClient() *client.Client {
	c, h := *r.api, *r.api.HTTP
	h.Timeout, c.HTTP = testTimeout, &h
	return &c
}

func testProxyCommand() *cobra.Command {
	return onProxiesInParallel(&cobra.Command{
		Use: "test ID...", Short: "Test proxies now; it fails if one of them fails",
		Long: `Test proxies now, 16 at the same time: by a request to health.url or, if that is not set, by a connection
to the proxy. A connection only shows that the proxy is reachable, not that it serves requests. A test
changes nothing; reset closes the breaker of a proxy that works again.`,
		Example: "  whirlpool proxies test alpha bravo",
	}, parallelTests, func(r *remote, id string) (string, error) {
		t, err := r.testClient().TestProxy(r.context(), id)
		if _, err := r.addAdvice(err); err != nil {
			return "", err
		}
		if !t.Passed {
			return "", errors.New(t.Error)
		}
		latency := milliseconds(float64(t.Latency))
		text := "is reachable: " + latency + " for a connection; without health.url, no request was sent"
		if t.Kind == "health_check" {
			text = "works: " + latency + " for health.url"
		}
		if t.ExitAddress != "" {
			text += ", exit address " + t.ExitAddress
		}
		return text, nil
	})
}

func resetCommand() *cobra.Command {
	return forEachProxy(&cobra.Command{Use: "reset ID...", Short: "Close the circuit breakers of proxies"},
		func(r *remote, id string) (string, error) {
			path := "/circuit-breakers/" + url.PathEscape(id) + "/reset"
			_, err := r.send(request{method: http.MethodPost, path: path}, nil)
			return "has a closed breaker", err
		})
}

func deleteCommand() *cobra.Command {
	return forEachProxy(&cobra.Command{
		Use: "delete ID...", Short: "Remove proxies at once; their attempts in flight are completed",
	}, func(r *remote, id string) (string, error) {
		_, err := r.send(request{method: http.MethodDelete, path: proxyPath(id)}, nil)
		return "is deleted", err
	})
}
