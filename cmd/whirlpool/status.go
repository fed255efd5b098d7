package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// The commands in this file read the state of a running gateway from its API, and show it.

// gatewayStatus is the JSON output of the command status.
type gatewayStatus struct {
	Gateway  string         `json:"gateway"`
	Summary  string         `json:"summary"` // the summary in GET /status
	Proxies  proxyCounts    `json:"proxies"`
	Requests requestCounts  `json:"requests"`
	Failing  []failingProxy `json:"failing"` // maxFailingProxies at most

	Failures []client.FailureGroup `json:"failures"`
	Losses   []client.LossGroup    `json:"losses"`

	Suspect   []suspectTarget `json:"suspect_targets"`
	Cluster   *clusterState   `json:"cluster,omitempty"`
	LoadedAt  time.Time       `json:"configuration_at"`
	LoadFault []string        `json:"configuration_faults"`
	Restart   []string        `json:"needs_restart"`
}

// proxyCounts has the number of proxies in each state. A proxy counts in each of its states.
type proxyCounts struct {
	Total     int `json:"total"`
	InService int `json:"in_service"`
	HalfOpen  int `json:"half_open"`
	Open      int `json:"open"`
	Draining  int `json:"draining"`
	Unreached int `json:"unreached"`
	Banned    int `json:"banned"`
}

// requestCounts has the numbers of requests in the time for which the gateway keeps metrics: the last Hours hours.
type requestCounts struct {
	Hours     int    `json:"hours"`
	Requests  uint64 `json:"requests"`
	Delivered uint64 `json:"delivered"`
	Refused   uint64 `json:"target_refused"` // delivered requests whose response has status 403 or 429
	Attempts  uint64 `json:"attempts"`
	Retries   uint64 `json:"retries"`
}

// servedCount returns the number of delivered requests that the target has not refused.
func (r *requestCounts) servedCount() uint64 { return r.Delivered - min(r.Refused, r.Delivered) }

// failingProxy is a proxy whose breaker is not closed.
type failingProxy struct {
	ID    string    `json:"id"`
	State string    `json:"state"`
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

// suspectTarget is a target that fails through several proxies, and succeeds through none.
type suspectTarget struct {
	Target   string `json:"target"`
	Failures int    `json:"failures"`
}

// clusterState is the cluster of the gateway.
type clusterState struct {
	Name      string `json:"name"`
	Node      string `json:"node"`  // this gateway
	State     string `json:"state"` // this gateway's state: live, isolated or alone
	LiveNodes int    `json:"live_nodes"`
	Requests  uint64 `json:"requests"`  // requests of all live nodes in the last Minutes minutes
	Delivered uint64 `json:"delivered"` // the requests of these that were delivered, and not refused by the target
	Attempts  uint64 `json:"attempts"`
	Retries   uint64 `json:"retries"`
	Minutes   int    `json:"minutes"`
}

// clusterOf returns the cluster in the response to GET /status; nil for none.
func clusterOf(c *client.ClusterStatus) *clusterState {
	if c == nil {
		return nil
	}
	q := &c.Requests
	return &clusterState{Name: c.Name, Node: c.Node, State: c.State, LiveNodes: c.LiveNodes, Requests: q.Total,
		Delivered: q.Delivered - min(q.Refused, q.Delivered), Attempts: q.Attempts, Retries: q.Retries,
		Minutes: int(q.Window / 60)}
}

// maxFailingProxies is the maximum number of failing proxies in the status. Each of them costs a request to the API.
const maxFailingProxies = 10

func statusCommand() *cobra.Command {
	return gatewayCommand(&cobra.Command{
		Use: "status", Short: "Show the state of a running gateway: proxies, requests, and why proxies fail",
		Long: `Show the state of a running gateway: its proxies, its requests, and why proxies fail.
The exit code is 1 if the gateway does not respond.`,
		Example: "  whirlpool status\n  whirlpool status --json --url http://10.0.0.5:8889",
	}, func(r *remote, _ []string) error {
		s, err := r.readStatus()
		if err != nil {
			return err
		}
		return r.print(s, s.print)
	})
}

func (r *remote) readStatus() (*gatewayStatus, error) {
	s := &gatewayStatus{}
	for _, read := range []func(*gatewayStatus) error{r.readConfig, r.readProxies, r.readRequests, r.readTargets} {
		if err := read(s); err != nil {
			return nil, err
		}
	}
	s.Failing, s.Failures, s.Losses = notNil(s.Failing), notNil(s.Failures), notNil(s.Losses)
	s.Suspect, s.LoadFault, s.Restart = notNil(s.Suspect), notNil(s.LoadFault), notNil(s.Restart)
	return s, nil
}

// notNil returns list or, if it is nil, an empty list, whose JSON is [].
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
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
		s.LoadFault = append(s.LoadFault, faultText(raw))
	}
	return nil
}

// faultText converts a fault of the configuration from the JSON of the API to text.
func faultText(raw json.RawMessage) string {
	var f config.Fault
	if json.Unmarshal(raw, &f) != nil || f.Msg == "" {
		return string(raw)
	}
	return f.String()
}

func (r *remote) readProxies(s *gatewayStatus) error {
	status, err := r.api.Status(r.context())
	if _, err = r.addAdvice(err); err != nil {
		return err
	}
	p := &status.Proxies
	s.Summary, s.Cluster = status.Summary, clusterOf(status.Cluster)
	s.Failures, s.Losses = status.Failures, status.Losses
	s.Proxies = proxyCounts{Total: p.Total, InService: p.InService, HalfOpen: p.HalfOpen, Open: p.Open,
		Draining: p.Draining, Unreached: p.Unreached, Banned: p.Banned}
	if p.Open+p.HalfOpen == 0 {
		return nil
	}
	page, err := r.api.Breakers(r.context(),
		client.List{State: []string{"open", "half_open"}, Limit: maxFailingProxies})
	if _, err = r.addAdvice(err); err != nil {
		return err
	}
	for i := range page.Breakers {
		f := failingProxy{ID: page.Breakers[i].ProxyID, State: page.Breakers[i].State}
		if err := r.readBreakerReason(&f); err != nil {
			return err
		}
		s.Failing = append(s.Failing, f)
	}
	return nil
}

// readBreakerReason sets Since and Why of f.
func (r *remote) readBreakerReason(f *failingProxy) error {
	var v struct {
		Since time.Time `json:"last_state_change"`
		Why   struct{ Summary string }
	}
	status, err := r.send(request{method: "GET", path: "/circuit-breakers/" + url.PathEscape(f.ID)}, &v)
	if status == http.StatusNotFound { // the proxy was removed after the list was read
		return nil
	}
	f.Since, f.Why = v.Since, v.Why.Summary
	return err
}

func (r *remote) readRequests(s *gatewayStatus) error {
	var v struct {
		Requests         uint64            `json:"total_requests"`
		SuccessByAttempt map[string]uint64 `json:"success_by_attempt"`
		Refused          uint64            `json:"target_refused"`
		Attempts         uint64            `json:"total_attempts"`
		Retries          uint64            `json:"total_retries"`
		Hours            int               `json:"retention_hours"`
	}
	if err := r.get("/metrics/retries", &v); err != nil {
		return err
	}
	s.Requests = requestCounts{Hours: v.Hours, Requests: v.Requests, Refused: v.Refused, Attempts: v.Attempts,
		Retries: v.Retries}
	for _, n := range v.SuccessByAttempt {
		s.Requests.Delivered += n
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
	if err := r.get("/targets?state=suspect&limit=10", &v); err != nil {
		return err
	}
	for _, t := range v.Targets {
		if t.Suspect {
			s.Suspect = append(s.Suspect, suspectTarget{t.Target, t.Failures})
		}
	}
	return nil
}

func (s *gatewayStatus) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	p, q := &s.Proxies, &s.Requests
	fmt.Fprintf(table, "status\t%s\n", s.Summary)
	fmt.Fprintf(table, "gateway\t%s\n", s.Gateway)
	fmt.Fprintf(table, "proxies\t%d: %d in service, %d half-open, %d open, %d draining, %d unreached", p.Total,
		p.InService, p.HalfOpen, p.Open, p.Draining, p.Unreached)
	if p.Banned > 0 {
		fmt.Fprintf(table, ", %d banned", p.Banned)
	}
	fmt.Fprintln(table)
	delivered := "none yet"
	if q.Requests > 0 {
		refused := ""
		if q.Refused > 0 {
			refused = fmt.Sprintf(", %d refused by the target (403 or 429)", q.Refused)
		}
		delivered = fmt.Sprintf("%d in %d h, %.2f %% delivered%s; %s, %s", q.Requests, q.Hours,
			float64(10_000*q.servedCount()/q.Requests)/100, refused, plural(int(q.Attempts), "attempt"),
			plural(int(q.Retries), "retry"))
	}
	fmt.Fprintf(table, "requests\t%s\n", delivered)
	if c := s.Cluster; c != nil {
		fmt.Fprintf(table, "cluster\t%s: this gateway is %s (%s), %d live\n", c.Name, c.Node, c.State, c.LiveNodes)
		share := ""
		if c.Requests > 0 {
			share = fmt.Sprintf(", %.2f %% delivered; %s, %s", float64(10_000*c.Delivered/c.Requests)/100,
				plural(int(c.Attempts), "attempt"), plural(int(c.Retries), "retry"))
		}
		fmt.Fprintf(table, "\tall together: %s in the last %s%s\n", plural(int(c.Requests), "request"),
			plural(c.Minutes, "minute"), share)
	}
	for _, f := range s.Failures {
		fmt.Fprintf(table, "failing\t%s: %s, such as %s\n", plural(f.Proxies, "proxy"), f.Reason, f.Example)
	}
	for _, l := range s.Losses {
		fmt.Fprintf(table, "lost\t%s: %s%s\n", plural(l.Requests, "request"), l.Reason, throughProxies(&l))
	}
	for _, f := range s.Failing {
		fmt.Fprintf(table, "breaker\t%s: %s since %s: %s\n", f.ID, f.State, f.Since.Local().Format(time.DateTime),
			f.Why)
	}
	if hidden := p.Open + p.HalfOpen - len(s.Failing); hidden > 0 {
		fmt.Fprintf(table, "\tand %d more\n", hidden)
	}
	for _, t := range s.Suspect {
		fmt.Fprintf(table, "target\t%s fails through every proxy (%s)\n", t.Target, plural(t.Failures, "failure"))
	}
	fmt.Fprintf(table, "configuration\tread at %s\n", s.LoadedAt.Local().Format(time.DateTime))
	for _, fault := range s.LoadFault {
		fmt.Fprintf(table, "\tnot in force: %s\n", fault)
	}
	if len(s.Restart) > 0 {
		fmt.Fprintf(table, "\ttakes effect at the next start: %s\n", strings.Join(s.Restart, ", "))
	}
	table.Flush() // an error of w, the output, cannot be reported
}

// throughProxies returns the proxies of lost requests, such as ", through p1".
func throughProxies(l *client.LossGroup) string {
	switch {
	case l.Proxy != "":
		return ", through " + l.Proxy
	case l.Proxies > 0:
		return ", through " + plural(l.Proxies, "proxy")
	}
	return ""
}

func healthCommand() *cobra.Command {
	ready := false
	cmd := &cobra.Command{
		Use: "health", Short: "Check whether a gateway runs, for containers: exit code 0 or 1",
		Long: `Check whether a gateway runs or, with --ready, whether it takes new clients, as GET /healthz and GET
/readyz do. It needs no key. The exit code is 1 if the gateway does not respond within 5 s, or is not ready.`,
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "check whether the gateway takes new clients")
	return gatewayCommand(cmd, func(r *remote, _ []string) error {
		path := "/healthz"
		if ready {
			path = "/readyz"
		}
		r.api.HTTP.Timeout = 5 * time.Second
		var raw json.RawMessage
		if err := r.get(path, &raw); err != nil {
			return err
		}
		var health struct{ Status string }
		if err := json.Unmarshal(raw, &health); err != nil {
			return err
		}
		return r.print(raw, func(w io.Writer) { fmt.Fprintln(w, health.Status) })
	})
}

func eventsCommand() *cobra.Command {
	var query client.EventQuery
	follow := true
	cmd := gatewayCommand(&cobra.Command{
		Use: "events", Short: "Print the events of a running gateway as they happen",
		Long: `Print the events of a running gateway as they happen: transitions of breakers with their reason,
reloads, bans, requests for which no proxy was left (in a flood one a second, with the number of the other
ones), changes of the policy, activations and faults of plugins. Only --type prints these:
  change    each change through the API, with the name of the key
  request   each request that has ended, with its attempts
  attempt   each attempt that has ended
--sample 0.01 prints request and attempt for 1 % of the requests only. Each line has the time, the type and
the JSON of one event; --json prints {"id": ..., "type": ..., "data": ...}. The command ends with an
interrupt.
With --follow=false it prints the events that the gateway has kept, and ends; request and attempt are not
kept.`,
		Example: "  whirlpool events\n  whirlpool events --type breaker,exhaustion\n" +
			"  whirlpool events --type request --sample 0.01\n  whirlpool events --follow=false",
	}, func(r *remote, _ []string) error {
		for _, t := range query.Types {
			if err := checkWord("--type", t, eventTypes); err != nil {
				return err
			}
		}
		if query.Sample != 0 && !slices.Contains(query.Types, "request") && !slices.Contains(query.Types, "attempt") {
			return usageErrorf("--sample needs --type request or --type attempt")
		}
		if !(query.Sample >= 0 && query.Sample <= 1) {
			return usageErrorf("--sample must be a number above 0 and up to 1, such as 0.01")
		}
		if follow {
			return r.printNewEvents(query)
		}
		return r.printKeptEvents(query)
	})
	cmd.Flags().StringSliceVar(&query.Types, "type", nil,
		"`TYPES` of events, separated by commas (default: all but change, request and attempt)")
	cmd.Flags().Float64Var(&query.Sample, "sample", 0, "`SHARE` of the requests for request and attempt (default: 1)")
	cmd.Flags().BoolVarP(&follow, "follow", "f", true, "print new events until the command is ended")
	completeList(cmd, "type", eventTypes)
	return cmd
}

// eventTypes are the types of the events in GET /events.
var eventTypes = []string{"breaker", "plugin_log", "plugin_fault", "plugin_quarantine", "activation", "policy",
	"reload", "ban", "exhaustion", "change", "request", "attempt"}

// printNewEvents prints events until the gateway ends the stream or the command is interrupted.
func (r *remote) printNewEvents(query client.EventQuery) error {
	err := r.printEvents(r.context(), query, func() {})
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s has ended the stream of events", r.api.Base.Host)
	}
	return err
}

// keptEventsTimeout is the time without an event after which printKeptEvents ends.
const keptEventsTimeout = 500 * time.Millisecond

// printKeptEvents prints the past events that the gateway keeps.
func (r *remote) printKeptEvents(query client.EventQuery) error {
	ctx, cancel := context.WithCancel(r.context())
	defer cancel()
	timer := time.AfterFunc(time.Minute, cancel) // the response must begin within a minute
	defer timer.Stop()
	query.LastID = "0" // for an unknown id, the gateway sends all kept events
	err := r.printEvents(ctx, query, func() { timer.Reset(keptEventsTimeout) })
	if errors.Is(err, io.EOF) || ctx.Err() != nil && r.context().Err() == nil {
		return nil
	}
	return err
}

// printEvents prints the events that query selects. It calls onData at the beginning of the response and for each
// event.
func (r *remote) printEvents(ctx context.Context, query client.EventQuery, onData func()) error {
	r.api.HTTP.Timeout = 0 // no timeout, because the response does not end
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: onData})
	_, err := r.addAdvice(r.api.Events(ctx, query, func(e client.Event) error {
		onData()
		if r.asJSON {
			return json.NewEncoder(r.cmd.OutOrStdout()).Encode(struct {
				ID   string          `json:"id"`
				Type string          `json:"type"`
				Data json.RawMessage `json:"data"`
			}{e.ID, e.Type, e.Data})
		}
		line := eventTime(e.Data).Local().Format(time.DateTime) + " " + e.Type + " " + string(e.Data)
		_, err := fmt.Fprintln(r.cmd.OutOrStdout(), line)
		return err
	}))
	return err
}

// eventTime returns the time of an event from its data, because the event may be an old one that the gateway has kept.
// If the data has no time, it returns the current time.
func eventTime(data []byte) time.Time {
	var times struct {
		At         time.Time
		Timestamp  time.Time // the field's name in an event about a transition
		UpdatedAt  time.Time `json:"updated_at"`  // the name in an event about a policy
		FinishedAt time.Time `json:"finished_at"` // the name in an event about a request
	}
	_ = json.Unmarshal(data, &times) // data of another form has no time
	for _, t := range []time.Time{times.At, times.Timestamp, times.UpdatedAt, times.FinishedAt} {
		if !t.IsZero() {
			return t
		}
	}
	return time.Now()
}
