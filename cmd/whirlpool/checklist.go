package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/geo"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/listcheck"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/lists"
	"github.com/whirlpool-proxy/whirlpool/core/health"
	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/transport"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// listOptions holds the flags of the command `whirlpool check`.
type listOptions struct {
	url, out, scheme               string
	exit, mmdb                     string
	expect                         health.Expectation
	parallel                       int
	connectTimeout, requestTimeout time.Duration
	detect, asJSON, printAll       bool

	original proxylist.Original // the entries that were read, with their form
}

func checkListCommand() *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use: "check FILE|URL...", Short: "Check the proxies of lists in parallel, and write the good ones",
		Long: `Check the proxies of lists (files, URLs, or - for standard input): whether each can be reached
and, with --url, whether a GET of that URL through it gets the expected response, in absolute form
and through a tunnel. With --mmdb the country of the exit address (--exit, or else the address of
the proxy) is shown, and becomes the region of a proxy that has none. The good ones, the fastest first,
are printed, and written to --out in the form in which they were read, or as URLs if that form cannot
express what the check has found, such as a scheme. The exit code is 1 if none is good.`,
		Example: "  whirlpool check list.txt --url https://example.com/ --out good.txt\n" +
			"  whirlpool check socks.txt --scheme socks5 --json",
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.url, "url", "", "http:// or https:// `URL` to request through each proxy")
	f.IntVar(&o.expect.Status, "expect-status", 0, "`STATUS` of the response; 0 for 200 to 299")
	f.StringVar(&o.expect.Body, "expect-body", "", "`TEXT` that the response's body contains")
	f.StringVar(&o.exit, "exit", "", "`PART` of the response with the proxy's exit address: body (text or JSON), "+
		"or a header field")
	f.StringVar(&o.mmdb, "mmdb", "", "MMDB `FILE` (GeoLite2-Country and others) for the country of each exit address")
	f.StringVar(&o.out, "out", "", "`FILE` for the good proxies, with their credentials; readable by you only")
	f.StringVar(&o.scheme, "scheme", "http", "`SCHEME` of lines without one: "+upstream.ProxySchemes)
	completeWords(cmd, "scheme", upstream.SchemeNames())
	f.BoolVar(&o.detect, "detect", false, "try each proxy that fails as http, socks5 and socks4")
	f.IntVar(&o.parallel, "parallel", 200, "check `N` proxies at the same time")
	f.DurationVar(&o.connectTimeout, "connect", 3*time.Second, "maximum `TIME` to connect to a proxy")
	f.DurationVar(&o.requestTimeout, "timeout", 10*time.Second, "maximum `TIME` for one request, such as 5s")
	f.BoolVar(&o.asJSON, "json", false, "print the results of all proxies as JSON")
	f.BoolVar(&o.printAll, "all", false, "print the proxies that are not good too, with the reason")
	return cmd
}

func (o *listOptions) run(cmd *cobra.Command, files []string) error {
	if o.parallel < 1 || o.connectTimeout <= 0 || o.requestTimeout <= 0 {
		return usageErrorf("--parallel, --connect and --timeout must be above 0")
	}
	if err := checkWord("--scheme", o.scheme, upstream.SchemeNames()); err != nil {
		return err
	}
	if status := o.expect.Status; status != 0 && (status < 100 || status > 599) {
		return usageErrorf("--expect-status %d: must be a status from 100 to 599, or 0 for 200 to 299", status)
	}
	check := listcheck.Options{Expect: o.expect, Detect: o.detect, Parallel: o.parallel, Timeout: o.requestTimeout,
		Exit: o.exit}
	if o.url != "" {
		request, err := health.ParseURL(o.url)
		if err != nil {
			return usageErrorf("--url %w", err)
		}
		check.Request = &request
	} else if o.expect != (health.Expectation{}) || o.exit != "" {
		return usageErrorf("--expect-status, --expect-body and --exit need --url")
	}
	if o.mmdb != "" {
		db, err := geo.Open(o.mmdb)
		if err != nil {
			return usageErrorf("--mmdb %s: %w", o.mmdb, err)
		}
		check.Country = db.Country
	}
	specs, err := o.readLists(cmd, files)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := transport.New(transport.Config{ConnectTimeout: o.connectTimeout})
	defer t.Close()
	p := &listProgress{out: cmd.ErrOrStderr(), total: len(specs), isTerminal: isTerminal(cmd.ErrOrStderr()),
		onlyConnects: o.url == ""}
	check.Done = p.add
	results := listcheck.Check(ctx, specs, t, check)
	p.end(ctx)
	if !o.detect && !cmd.Flags().Changed("scheme") {
		hintAtDetect(cmd.ErrOrStderr(), results)
	}
	return o.report(cmd.OutOrStdout(), results)
}

// readLists reads the lists, and returns each of their proxies once.
func (o *listOptions) readLists(cmd *cobra.Command, files []string) (all []upstream.Spec, err error) {
	known := map[upstream.Address]struct{}{}
	for _, file := range files {
		specs, original, err := o.readProxies(cmd, file)
		if err != nil {
			return nil, err
		}
		if len(files) == 1 {
			o.original = original
			return specs, nil
		}
		for i := range specs {
			if _, found := known[specs[i].Address]; !found {
				known[specs[i].Address] = struct{}{}
				all = append(all, specs[i])
				o.original.AddEntryOf(&original, i)
			}
		}
	}
	return all, nil
}

// readProxies reads the proxies of a list, and the TLS files that these proxies name.
func (o *listOptions) readProxies(cmd *cobra.Command, file string) (specs []upstream.Spec,
	original proxylist.Original, err error,
) {
	data, err := readList(cmd.Context(), file, cmd.InOrStdin())
	if err != nil {
		return nil, original, usageError{err}
	}
	if isURL(file) {
		file = lists.Redacted(file)
	}
	var counts proxylist.EntryCounts
	specs, warnings, err := proxylist.Parse(strings.NewReader(string(data)), proxylist.Options{Scheme: o.scheme,
		Counts: &counts, Original: &original})
	if err != nil {
		return nil, original, err
	}
	for _, w := range warnings[:min(len(warnings), maxLogLines)] {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s:%d: %s\n", file, w.Line, w.Msg)
	}
	if n := counts.WarningCount() - maxLogLines; n > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d more lines are skipped or in doubt\n", file, n)
	}
	if len(specs) == 0 {
		return nil, original, fmt.Errorf("%s: no line is a proxy", file)
	}
	for i := range specs {
		if err := readTLS(file, &specs[i]); err != nil {
			return nil, original, fmt.Errorf("%s: %s: %w", file, specs[i].Address, err)
		}
	}
	return specs, original, nil
}

func isURL(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// readList reads a proxy list from a file, the standard input or a URL.
func readList(ctx context.Context, name string, stdin io.Reader) ([]byte, error) {
	if !isURL(name) {
		return readInput(name, stdin)
	}
	data, err := lists.Fetch(ctx, lists.Source{URL: name}, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", lists.Redacted(name), err)
	}
	return data, nil
}

// report prints the results, and writes the good proxies to the file --out. It returns an error if no proxy is good.
func (o *listOptions) report(out io.Writer, results []listcheck.Result) error {
	good := slices.DeleteFunc(slices.Clone(results), func(r listcheck.Result) bool { return !r.Good })
	slices.SortStableFunc(good, func(a, b listcheck.Result) int { return int(a.Latency - b.Latency) })
	switch {
	case o.asJSON:
		views := make([]listView, len(results))
		for i := range results {
			views[i] = viewOfResult(&results[i])
		}
		if err := printJSON(out, views); err != nil {
			return err
		}
	default:
		for i := range good {
			fmt.Fprintln(out, o.lineOf(&good[i]))
		}
		for i := range results {
			if r := &results[i]; o.printAll && !r.Good {
				fmt.Fprintf(out, "%-48s %s\n", r.Spec.Address.Redacted(), r.Fault)
			}
		}
	}
	if o.out != "" {
		if err := writePrivate(o.out, o.goodList(good)); err != nil {
			return err
		}
	}
	if len(good) == 0 {
		return fmt.Errorf("none of %d proxies is good", len(results))
	}
	return nil
}

// hintAtDetect prints a hint if http:// proxies accept connections but send no HTTP response: they may be SOCKS
// proxies.
func hintAtDetect(out io.Writer, results []listcheck.Result) {
	n := 0
	for i := range results {
		if r := &results[i]; r.Mute && r.Spec.Address.Scheme == upstream.HTTP {
			n++
		}
	}
	switch {
	case n == 1:
		fmt.Fprintln(out, "1 proxy accepts connections but sends no HTTP response; it may be a SOCKS proxy: "+
			"try --detect")
	case n > 1:
		fmt.Fprintf(out, "%d proxies accept connections but send no HTTP response; they may be SOCKS proxies: "+
			"try --detect\n", n)
	}
}

// writePrivate writes a file that only its owner can read, even if it exists already.
func writePrivate(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return err
	} else if info.Mode().IsRegular() { // the mode of a terminal or a pipe must not change
		if err := f.Chmod(0o600); err != nil {
			return err
		}
	}
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return f.Close()
}

func (o *listOptions) lineOf(r *listcheck.Result) string {
	abilities := ""
	switch {
	case o.url == "":
	case r.Get && r.Connect:
		abilities = "GET, CONNECT"
	case r.Get:
		abilities = "GET only"
	default:
		abilities = "CONNECT only"
	}
	country := ""
	if o.mmdb != "" {
		country = fmt.Sprintf("%-2s  ", r.Country)
	}
	return strings.TrimSpace(fmt.Sprintf("%-48s %6d ms  %s%s", r.Spec.Address.Redacted(), r.Latency.Milliseconds(),
		country, abilities))
}

// goodList returns the good proxies in the form of the list that was read.
func (o *listOptions) goodList(good []listcheck.Result) string {
	specs, indexes := make([]upstream.Spec, len(good)), make([]int, len(good))
	for i := range good {
		specs[i], indexes[i] = good[i].Spec, good[i].Index
	}
	return o.original.Format(specs, indexes)
}

// listView is the JSON of one checked proxy. It has no credentials.
type listView struct {
	URL     string  `json:"url"`
	Region  string  `json:"region,omitempty"`
	Good    bool    `json:"good"`
	Get     bool    `json:"get"`
	Connect bool    `json:"connect"`
	Latency float64 `json:"latency,omitempty"` // s
	Exit    string  `json:"exit_address,omitempty"`
	Country string  `json:"country,omitempty"`
	Fault   string  `json:"fault,omitempty"`
}

func viewOfResult(r *listcheck.Result) listView {
	v := listView{URL: r.Spec.Address.Redacted(), Region: r.Spec.Region, Good: r.Good, Get: r.Get, Connect: r.Connect,
		Latency: r.Latency.Seconds(), Country: r.Country, Fault: r.Fault}
	if r.Exit.IsValid() {
		v.Exit = r.Exit.String()
	}
	return v
}

// listProgress prints the progress of a check of a proxy list.
type listProgress struct {
	out        io.Writer
	total      int
	isTerminal bool // out is a terminal

	onlyConnects bool // no requests are sent through the proxies

	done, good int
	lastPrint  time.Time
}

// add adds a result to the numbers of checked and good proxies. If out is a terminal, it also prints the progress, at
// most ten times a second.
func (p *listProgress) add(r listcheck.Result) {
	p.done++
	if r.Good {
		p.good++
	}
	if p.isTerminal && time.Since(p.lastPrint) > 100*time.Millisecond {
		p.lastPrint = time.Now()
		width := 30 * p.done / p.total
		fmt.Fprintf(p.out, "\r[%s%s] %d of %d checked, %d good ", strings.Repeat("#", width),
			strings.Repeat(".", 30-width), p.done, p.total, p.good)
	}
}

// end prints the numbers of checked and good proxies.
func (p *listProgress) end(ctx context.Context) {
	if p.isTerminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	suffix := ""
	if p.onlyConnects {
		suffix = " (only connections were tested; --url URL tests requests)"
	}
	if ctx.Err() != nil {
		suffix += ", interrupted"
	}
	fmt.Fprintf(p.out, "%d of %d checked, %d good%s\n", p.done, p.total, p.good, suffix)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// readTLS reads the TLS files that a proxy of a proxy list names, and sets Extras.TLS.
func readTLS(list string, s *upstream.Spec) (err error) {
	own := s.Extra().TLS
	if own == nil {
		return nil
	}
	own, err = upstream.LoadTLS(own.TLSOptions, func(path string) ([]byte, error) {
		path, err := config.ListFile(list, path)
		if err != nil {
			return nil, err
		}
		return os.ReadFile(path)
	})
	s.ChangeExtras(func(e *upstream.Extras) { e.TLS = own })
	return err
}
