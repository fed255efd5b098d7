package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// Commands that show the state of a running gateway, through its API.

// gatewayStatus is the output of the command status.
type gatewayStatus struct {
	Gateway   string          `json:"gateway"`
	Proxies   proxyCounts     `json:"proxies"`
	Requests  requestCounts   `json:"requests"`
	Failing   []failingProxy  `json:"failing"` // at most maxFailing
	Suspect   []suspectTarget `json:"suspect_targets"`
	LoadedAt  time.Time       `json:"configuration_at"`
	LoadFault []string        `json:"configuration_faults"`
	Restart   []string        `json:"needs_restart"`
}

// proxyCounts has the numbers of proxies. A draining or unreached proxy is not counted again by the state of
// its breaker.
type proxyCounts struct {
	Total     int `json:"total"`
	InService int `json:"in_service"`
	HalfOpen  int `json:"half_open"`
	Open      int `json:"open"`
	Draining  int `json:"draining"`
	Unreached int `json:"unreached"`
}

// requestCounts has the numbers of requests in the hours that metrics keep.
type requestCounts struct {
	Hours     int    `json:"hours"`
	Requests  uint64 `json:"requests"`
	Delivered uint64 `json:"delivered"`
	Attempts  uint64 `json:"attempts"`
	Retries   uint64 `json:"retries"`
}

// failingProxy is a proxy whose breaker is not closed.
type failingProxy struct {
	ID    string    `json:"id"`
	State string    `json:"state"`
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

// suspectTarget is a target that fails through every proxy.
type suspectTarget struct {
	Target   string `json:"target"`
	Failures int    `json:"failures"`
}

// maxFailing is the maximum number of proxies for which the status shows why they fail, because each of them takes a
// request to the API.
const maxFailing = 10

func statusCommand() *cobra.Command {
	return onGateway(&cobra.Command{
		Use: "status", Short: "Show the state of a running gateway: proxies, requests, and why proxies fail",
		Long: `Show the state of a running gateway: its proxies, its requests, and why proxies fail.
The exit code is 1 if the gateway does not respond.`,
		Example: "  whirlpool status\n  whirlpool status --json --to http://10.0.0.5:8889",
	}, func(r *remote, _ []string) error {
		s, err := r.status()
		if err != nil {
			return err
		}
		return r.show(s, s.print)
	})
}

// status reads the state of the gateway.
func (r *remote) status() (*gatewayStatus, error) {
	s := &gatewayStatus{}
	for _, read := range []func(*gatewayStatus) error{r.readConfig, r.readProxies, r.readRequests, r.readTargets} {
		if err := read(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (r *remote) get(path string, v any) error {
	_, err := r.send(request{method: "GET", path: path}, v)
	return err
}

func (r *remote) readConfig(s *gatewayStatus) error {
	var v struct {
		Gateway string
		Reload  struct {
			OK      bool
			At      time.Time
			Faults  []json.RawMessage
			Restart []string
		}
	}
	if err := r.get("/config", &v); err != nil {
		return err
	}
	s.Gateway, s.LoadedAt, s.Restart = v.Gateway, v.Reload.At, v.Reload.Restart
	for _, raw := range v.Reload.Faults {
		var f struct {
			File, Key, Message string
			Line               int
		}
		text := string(raw)
		if json.Unmarshal(raw, &f) == nil && f.Message != "" {
			text = fmt.Sprintf("%s:%d: %s: %s", f.File, f.Line, f.Key, f.Message)
		}
		s.LoadFault = append(s.LoadFault, text)
	}
	return nil
}

func (r *remote) readProxies(s *gatewayStatus) error {
	var v struct {
		Proxies []struct {
			ID, State           string
			Draining, Unreached bool
		}
	}
	if err := r.get("/proxies", &v); err != nil {
		return err
	}
	s.Proxies.Total = len(v.Proxies)
	for _, p := range v.Proxies {
		switch {
		case p.Draining:
			s.Proxies.Draining++
		case p.State == "open":
			s.Proxies.Open++
		case p.State == "half_open":
			s.Proxies.HalfOpen++
		case p.Unreached:
			s.Proxies.Unreached++
		default:
			s.Proxies.InService++
		}
		if p.State != "closed" {
			s.Failing = append(s.Failing, failingProxy{ID: p.ID, State: p.State})
		}
	}
	slices.SortFunc(s.Failing, func(a, b failingProxy) int { return cmp.Compare(a.ID, b.ID) })
	s.Failing = s.Failing[:min(len(s.Failing), maxFailing)]
	for i := range s.Failing {
		if err := r.readWhy(&s.Failing[i]); err != nil {
			return err
		}
	}
	return nil
}

// readWhy sets Since and Why of f from the proxy's breaker in the API.
func (r *remote) readWhy(f *failingProxy) error {
	var v struct {
		Since time.Time `json:"last_state_change"`
		Why   struct{ Summary string }
	}
	status, err := r.send(request{method: "GET", path: "/circuit-breakers/" + url.PathEscape(f.ID)}, &v)
	if status == http.StatusNotFound { // the proxy has been removed meanwhile
		return nil
	}
	f.Since, f.Why = v.Since, v.Why.Summary
	return err
}

func (r *remote) readRequests(s *gatewayStatus) error {
	var v struct {
		Requests uint64                                `json:"total_requests"`
		Attempts uint64                                `json:"total_attempts"`
		Retries  uint64                                `json:"total_retries"`
		Hours    int                                   `json:"retention_hours"`
		ByPolicy map[string]struct{ Successes uint64 } `json:"by_policy"`
	}
	if err := r.get("/metrics/retries", &v); err != nil {
		return err
	}
	s.Requests = requestCounts{Hours: v.Hours, Requests: v.Requests, Attempts: v.Attempts, Retries: v.Retries}
	for _, p := range v.ByPolicy {
		s.Requests.Delivered += p.Successes
	}
	return nil
}

func (r *remote) readTargets(s *gatewayStatus) error {
	var v struct {
		Targets []struct {
			Target   string
			Failures int
			Suspect  bool
		}
	}
	if err := r.get("/targets?limit=10", &v); err != nil { // suspect targets come first
		return err
	}
	for _, t := range v.Targets {
		if t.Suspect {
			s.Suspect = append(s.Suspect, suspectTarget{t.Target, t.Failures})
		}
	}
	return nil
}

// print prints the status as text.
func (s *gatewayStatus) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	p, q := &s.Proxies, &s.Requests
	fmt.Fprintf(table, "gateway\t%s\n", s.Gateway)
	fmt.Fprintf(table, "proxies\t%d: %d in service, %d half-open, %d open, %d draining, %d unreached\n", p.Total,
		p.InService,
		p.HalfOpen, p.Open, p.Draining, p.Unreached)
	delivered := "none yet"
	if q.Requests > 0 {
		delivered = fmt.Sprintf("%d in %d h, %.2f %% delivered; %d attempts, %d retries", q.Requests, q.Hours,
			100*float64(q.Delivered)/float64(q.Requests), q.Attempts, q.Retries)
	}
	fmt.Fprintf(table, "requests\t%s\n", delivered)
	for _, f := range s.Failing {
		fmt.Fprintf(table, "failing\t%s: %s since %s: %s\n", f.ID, f.State, f.Since.Local().Format(time.DateTime),
			f.Why)
	}
	if more := p.Open + p.HalfOpen - len(s.Failing); more > 0 {
		fmt.Fprintf(table, "\tand %d more\n", more)
	}
	for _, t := range s.Suspect {
		fmt.Fprintf(table, "target\t%s fails through every proxy (%d failures)\n", t.Target, t.Failures)
	}
	fmt.Fprintf(table, "configuration\tread at %s\n", s.LoadedAt.Local().Format(time.DateTime))
	for _, fault := range s.LoadFault {
		fmt.Fprintf(table, "\tnot in force: %s\n", fault)
	}
	if len(s.Restart) > 0 {
		fmt.Fprintf(table, "\ttakes effect at the next start: %s\n", strings.Join(s.Restart, ", "))
	}
	table.Flush() // its error is that of w, and cannot be reported
}

func eventsCommand() *cobra.Command {
	types := ""
	cmd := onGateway(&cobra.Command{
		Use: "events", Short: "Print the events of a running gateway as they happen",
		Long: `Print the events of a running gateway as they happen: transitions of breakers with their reason,
reloads, changes of the policy, activations and faults of plugins. Each line has the time, the type and
the JSON of one event; --json prints the JSON of the event alone. The command ends with an interrupt.`,
		Example: "  whirlpool events\n  whirlpool events --type breaker,reload",
	}, func(r *remote, _ []string) error { return r.follow(types) })
	cmd.Flags().StringVar(&types, "type", "", "`TYPES` of events, separated by commas (default: all)")
	return cmd
}

// follow prints events until the stream ends.
func (r *remote) follow(types string) error {
	path := "/events"
	if types != "" {
		path += "?type=" + url.QueryEscape(types)
	}
	in, err := http.NewRequestWithContext(r.cmd.Context(), http.MethodGet, r.base.String()+path, nil)
	if err != nil {
		return err
	}
	if r.key != "" {
		in.Header.Set("Authorization", "Bearer "+r.key)
	}
	r.http.Timeout = 0 // the stream has no end
	out, err := r.http.Do(in)
	if err != nil {
		return r.unreachable(err)
	}
	defer out.Body.Close()
	if out.StatusCode != http.StatusOK {
		body, err := io.ReadAll(out.Body)
		if err != nil {
			return err
		}
		return r.failure(out.StatusCode, body)
	}
	return r.printEvents(out.Body)
}

// maxEvent is the longest line of an event, in bytes.
const maxEvent = 1 << 20

// printEvents prints the events of a stream (WHATWG HTML, section 9.2.6).
func (r *remote) printEvents(stream io.Reader) error {
	s := bufio.NewScanner(stream)
	s.Buffer(nil, maxEvent)
	kind := ""
	for s.Scan() {
		name, value, _ := strings.Cut(s.Text(), ": ")
		switch name {
		case "event":
			kind = value
		case "data":
			line := value
			if !r.asJSON {
				line = time.Now().Format(time.DateTime) + " " + kind + " " + value
			}
			if _, err := fmt.Fprintln(r.cmd.OutOrStdout(), line); err != nil {
				return err
			}
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%s has ended the stream of events", r.base.Host)
}
