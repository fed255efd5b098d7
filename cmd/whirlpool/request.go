package main

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/textproto"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// requestInput is the JSON in the body of POST /request.
type requestInput struct {
	Method     string            `json:"method,omitempty"`
	URL        string            `json:"url"`
	Headers    map[string]string `json:"headers,omitempty"`
	BodyBase64 string            `json:"body_base64,omitempty"`
	Retry      map[string]any    `json:"retry,omitempty"`
	Region     string            `json:"region,omitempty"`
	Strict     bool              `json:"region_strict,omitempty"`
	Priority   string            `json:"priority,omitempty"`
	Session    string            `json:"session,omitempty"`
}

// requestOutput is the JSON of the response to POST /request. If this response is an error, its details have the same
// form.
type requestOutput struct {
	ID         string       `json:"request_id"`
	Outcome    string       `json:"outcome"`
	Status     int          `json:"status"`
	Headers    http.Header  `json:"headers"`
	Body       string       `json:"body"`
	BodyBase64 string       `json:"body_base64"`
	Truncated  bool         `json:"truncated"`
	Attempts   []attemptRow `json:"attempts"`
}

func (o *requestOutput) bodyBytes() ([]byte, error) {
	if o.BodyBase64 != "" {
		return base64.StdEncoding.DecodeString(o.BodyBase64)
	}
	return []byte(o.Body), nil
}

// attemptRow is the JSON of one attempt in requestOutput.
type attemptRow struct {
	Number   int       `json:"attempt"`
	Hedge    bool      `json:"hedge"`
	ProxyID  string    `json:"proxy_id"`
	Status   int       `json:"status_code"`
	Cause    string    `json:"cause"`
	Started  time.Time `json:"started_at"`
	Duration float64   `json:"latency"` // s
	Error    string    `json:"error_message"`
}

func requestCommand() *cobra.Command {
	var o struct {
		method, data, region, session, priority string
		headers, retry                          []string
		strict, body                            bool
	}
	cmd := &cobra.Command{
		Use: "request URL", Short: "Send one request through a running gateway and show its attempts",
		Long: `Send one request through a running gateway and show its attempts: the proxy, the cause, the start, the
duration and the bytes of each, and a bar for its time. --body prints the body of the response in place
of the attempts. The exit code is 1 if the request got no response, or the response of a failed attempt.`,
		Example: "  whirlpool request http://shop.example/\n" +
			"  whirlpool request https://shop.example/ -H 'Accept: text/html' --retry max_attempts=5 --region DE",
	}
	f := cmd.Flags()
	f.StringVarP(&o.method, "method", "X", "", "`METHOD` (default: GET, with --data POST)")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "header field, `'NAME: VALUE'`; may be repeated")
	f.StringVarP(&o.data, "data", "d", "",
		"`TEXT` of the body; @FILE for the contents of a file, @- for standard input")
	f.StringArrayVar(&o.retry, "retry", nil,
		"setting of the retry policy for this request, `KEY=VALUE`; may be repeated")
	f.StringVar(&o.region, "region", "", "`REGION` whose proxies are preferred")
	f.BoolVar(&o.strict, "region-strict", false, "use proxies of --region only")
	f.StringVar(&o.session, "session", "", "`SESSION` of the request, as in X-Whirlpool-Session")
	f.StringVar(&o.priority, "priority", "", "`PRIORITY`: high, normal or low")
	f.BoolVar(&o.body, "body", false, "print the body of the response")
	completeWords(cmd, "priority", priorities)
	completeWords(cmd, "method", methods)
	completeGroups(cmd, "region")
	return gatewayCommand(cmd, func(r *remote, args []string) error {
		in := requestInput{Method: o.method, URL: args[0], Region: o.region, Strict: o.strict, Session: o.session,
			Priority: o.priority}
		if err := checkWord("--priority", o.priority, priorities); err != nil {
			return err
		}
		var err error
		if in.Headers, err = headerFields(o.headers); err != nil {
			return err
		}
		if in.Retry, err = policySettings(o.retry); err != nil {
			return err
		}
		if cmd.Flags().Changed("data") {
			data := []byte(o.data)
			if file, ok := strings.CutPrefix(o.data, "@"); ok {
				if data, err = readInput(file, cmd.InOrStdin()); err != nil {
					return usageError{err}
				}
			}
			in.BodyBase64 = base64.StdEncoding.EncodeToString(data)
			in.Method = cmp.Or(in.Method, http.MethodPost)
		}
		return r.sendThroughPool(&in, o.body)
	})
}

var priorities = []string{"high", "normal", "low"}

// headerFields parses the values of the flag --header.
func headerFields(list []string) (map[string]string, error) {
	fields := map[string]string{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, ":")
		if !ok || name == "" || textproto.TrimString(name) != name {
			return nil, usageErrorf("--header %q must be 'NAME: VALUE'", text)
		}
		fields[name] = textproto.TrimString(value)
	}
	return fields, nil
}

// sendThroughPool sends a request, and prints the body of the response (printBody) or the attempts.
func (r *remote) sendThroughPool(in *requestInput, printBody bool) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r.api.HTTP.Timeout = 0 // the retry policy limits the time in place of the client
	var raw json.RawMessage
	_, err = r.send(request{method: http.MethodPost, path: "/request", body: text}, &raw)
	var failed *client.Error
	if errors.As(err, &failed) && len(failed.Details) > 0 {
		raw = failed.Details
	} else if err != nil {
		return err
	}
	out := requestOutput{}
	if err := json.Unmarshal(raw, &out); err != nil {
		return err
	}
	if failed != nil && out.Attempts == nil { // the input is invalid; the error names the field
		return failed
	}
	body, bodyErr := out.bodyBytes()
	if bodyErr != nil {
		return bodyErr
	}
	if in.Region != "" && !in.Strict {
		if err := r.checkRegion(in.Region); err != nil {
			fmt.Fprintf(r.cmd.ErrOrStderr(), "note: %v (without --region-strict, every proxy may be used)\n", err)
		}
	}
	if printBody && failed == nil && !r.asJSON {
		_, err := r.cmd.OutOrStdout().Write(body)
		return cmp.Or(err, out.outcomeError())
	}
	if err := r.print(raw, func(w io.Writer) { out.print(w, in, len(body), failed) }); err != nil {
		return err
	}
	if failed != nil && failed.Code == "no_proxy_in_region" && in.Region != "" {
		return cmp.Or(r.checkRegion(in.Region), error(failed))
	}
	if failed != nil {
		return failed
	}
	return out.outcomeError()
}

// outcomeError returns an error unless the outcome of the request is success.
func (o *requestOutput) outcomeError() error {
	if o.Outcome == "success" {
		return nil
	}
	return fmt.Errorf("the request ended with the outcome %s", o.Outcome)
}

// The method print prints the result of a request, and a table of its attempts. A bar shows when each attempt ran.
func (o *requestOutput) print(w io.Writer, in *requestInput, bodyBytes int, failed *client.Error) {
	if failed != nil {
		fmt.Fprintf(w, "%s %s: no response, %s\n", cmp.Or(in.Method, http.MethodGet), in.URL, failed.Code)
	} else {
		truncated := ""
		if o.Truncated {
			truncated = " (truncated)"
		}
		fmt.Fprintf(w, "%s %s: %d %s, %d bytes%s\n", cmp.Or(in.Method, http.MethodGet), in.URL, o.Status, o.Outcome,
			bodyBytes, truncated)
	}
	fmt.Fprintf(w, "request %s, %s\n", o.ID, plural(len(o.Attempts), "attempt"))
	if len(o.Attempts) == 0 {
		return
	}
	start, end := o.timeSpan()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ATTEMPT\tPROXY\tCAUSE\tSTATUS\tSTART\tDURATION\tBYTES\t")
	for i, a := range o.Attempts {
		number, status, size := fmt.Sprint(a.Number), "-", "-"
		if a.Hedge {
			number += " (hedge)"
		}
		if a.Status != 0 {
			status = fmt.Sprint(a.Status)
		}
		if failed == nil && i == o.relayedIndex() {
			size = fmt.Sprint(bodyBytes)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", number, a.ProxyID, a.Cause, status,
			milliseconds(a.Started.Sub(start).Seconds()), milliseconds(a.Duration), size,
			attemptBar(a.Started.Sub(start).Seconds(), a.Duration, end.Sub(start).Seconds()))
	}
	t.Flush() // Flush fails only if a write to the output fails
	for _, a := range o.Attempts {
		if a.Error != "" {
			fmt.Fprintf(w, "attempt %d: %s\n", a.Number, replaceControls(a.Error))
		}
	}
}

// relayedIndex returns the index of the attempt whose response was relayed; -1 if there is none. This is the last
// attempt with the status of the relayed response.
func (o *requestOutput) relayedIndex() int {
	for i := len(o.Attempts) - 1; i >= 0; i-- {
		if o.Attempts[i].Status == o.Status {
			return i
		}
	}
	return -1
}

// timeSpan returns the first start and the last end of the attempts.
func (o *requestOutput) timeSpan() (start, end time.Time) {
	for i, a := range o.Attempts {
		ended := a.Started.Add(time.Duration(a.Duration * float64(time.Second)))
		if i == 0 || a.Started.Before(start) {
			start = a.Started
		}
		if i == 0 || ended.After(end) {
			end = ended
		}
	}
	return start, end
}

// barWidth is the width of the column with the bars, in characters.
const barWidth = 40

// attemptBar returns the bar of an attempt, with at least one character. All parameters are in seconds: start is the
// time from the start of the first attempt to the start of this attempt. A bar over the whole width of the column
// stands for the time total.
func attemptBar(start, duration, total float64) string {
	if total <= 0 {
		return "|"
	}
	offset := min(barWidth-1, int(barWidth*start/total))
	length := max(1, int(math.Round(barWidth*duration/total)))
	return strings.Repeat(" ", offset) + strings.Repeat("=", min(length, barWidth-offset))
}
