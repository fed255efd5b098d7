package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/plugins"
)

// Commands that work with the plugins of a running gateway, through its API.

const (
	defaultAPI = "http://127.0.0.1:8889"
	urlVar     = "WHIRLPOOL_URL"     // the variable that replaces --to
	keyVar     = "WHIRLPOOL_API_KEY" // the variable with the key
)

// remote is the API of a gateway.
type remote struct {
	cmd     *cobra.Command
	to      string
	keyFile string
	asJSON  bool

	base *url.URL
	key  string
	http *http.Client
}

// onGateway gives cmd the flags of a remote, and makes it run f with the remote.
func onGateway(cmd *cobra.Command, f func(r *remote, args []string) error) *cobra.Command {
	r := &remote{cmd: cmd}
	cmd.Flags().StringVar(&r.to, "to", "", "`URL` of the gateway's API (default $"+urlVar+" or "+defaultAPI+")")
	cmd.Flags().StringVar(&r.to, "api", "", "the former name of --to")
	cmd.Flags().MarkHidden("api") // MarkHidden fails only if the flag does not exist
	cmd.Flags().StringVar(&r.keyFile, "key-file", "", "`FILE` with the API key (default: $"+keyVar+")")
	cmd.Flags().BoolVar(&r.asJSON, "json", false, "print JSON")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if err := r.open(); err != nil {
			return err
		}
		return f(r, args)
	}
	return cmd
}

// open checks the URL and reads the key. The key is not a flag, because other users of the machine can read
// the flags of a command.
func (r *remote) open() error {
	to := r.to
	if to == "" {
		to = os.Getenv(urlVar)
	}
	if to == "" {
		to = defaultAPI
	}
	base, err := url.Parse(to)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return usage("--to must be a URL such as %s", defaultAPI) // the URL is not quoted, because it may hold a key
	}
	if base.User != nil || base.RawQuery != "" {
		return usage("--to must be a URL without user and query; the key comes from --key-file or $%s", keyVar)
	}
	r.base = base.JoinPath("/api/v1")
	if strings.HasSuffix(strings.TrimSuffix(base.Path, "/"), "/api/v1") {
		r.base = base
	}
	r.key = os.Getenv(keyVar)
	if r.keyFile != "" {
		text, err := os.ReadFile(r.keyFile)
		if err != nil {
			return usageError{err}
		}
		r.key = string(text)
	}
	r.key = strings.TrimSpace(r.key)
	if strings.ContainsAny(r.key, "\r\n") {
		return usage("the API key is more than one line")
	}
	if r.key != "" && base.Scheme == "http" && !config.Loopback(net.JoinHostPort(base.Hostname(), "0")) {
		r.note("warning: the key is sent to %s without encryption", base.Host)
	}
	// The proxy of the environment is not used, because it may be the gateway itself.
	r.http = &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	return nil
}

// note prints a line for the user to the standard error output.
func (r *remote) note(format string, args ...any) {
	fmt.Fprintf(r.cmd.ErrOrStderr(), format+"\n", args...)
}

// request is one request to the API.
type request struct {
	method, path string // path is below /api/v1; its parts are escaped
	body         []byte
	kind         string // media type of body
	prefer       string
}

// apiError is the JSON of an error response of the API.
type apiError struct {
	status  int
	Code    string `json:"error"`
	Message string `json:"message"`
}

func (e *apiError) Error() string { return e.Message }

// send sends a request and decodes the response into v, unless it is nil.
func (r *remote) send(q request, v any) (status int, err error) {
	ctx := r.cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	in, err := http.NewRequestWithContext(ctx, q.method, r.base.String()+q.path, bytes.NewReader(q.body))
	if err != nil {
		return 0, err
	}
	if q.kind != "" {
		in.Header.Set("Content-Type", q.kind)
	}
	if q.prefer != "" {
		in.Header.Set("Prefer", q.prefer)
	}
	if r.key != "" {
		in.Header.Set("Authorization", "Bearer "+r.key)
	}
	out, err := r.http.Do(in)
	if err != nil {
		return 0, r.unreachable(err)
	}
	defer out.Body.Close()
	body, err := io.ReadAll(out.Body)
	if err != nil {
		return out.StatusCode, fmt.Errorf("the response from %s ended early: %w", r.base.Host, err)
	}
	if out.StatusCode >= 300 {
		return out.StatusCode, r.failure(out.StatusCode, body)
	}
	if v == nil || len(body) == 0 {
		return out.StatusCode, nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return out.StatusCode, fmt.Errorf("%s responds with status %d and no JSON; is it the API of a gateway?",
			r.base.Host,
			out.StatusCode)
	}
	return out.StatusCode, nil
}

// unreachable returns the error of a request that got no response.
func (r *remote) unreachable(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return fmt.Errorf("no response from the API at %s: %w; set another address with --to", r.base.Host, err)
}

// failure converts an error response to an error.
func (r *remote) failure(status int, body []byte) error {
	e := &apiError{status: status}
	if json.Unmarshal(body, e) != nil || e.Message == "" {
		e.Message = fmt.Sprintf("%s answers %d; is it the API of a gateway?", r.base.Host, status)
	}
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		e.Message += "; give an admin's key in --key-file or $" + keyVar
	}
	return e
}

// show prints v as JSON if --json is set, otherwise it calls text.
func (r *remote) show(v any, text func(w io.Writer)) error {
	if r.asJSON {
		e := json.NewEncoder(r.cmd.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	text(r.cmd.OutOrStdout())
	return nil
}

// remotePlugin has the fields of a plugin that the text output shows.
type remotePlugin struct {
	Name      string   `json:"name"`
	Kind      string   `json:"kind"`
	Source    string   `json:"source"`
	State     string   `json:"state"`
	SHA256    string   `json:"sha256"`
	Size      int      `json:"size"`
	Calls     uint64   `json:"calls"`
	Faults    uint64   `json:"faults"`
	LastError string   `json:"last_error"`
	UsedFor   []string `json:"used_for"`
}

// onPlugin returns a command that sends one request about a plugin and then prints done, a format with
// the plugin's name.
func onPlugin(use, short string, q func(args []string) request, done string) *cobra.Command {
	return onGateway(&cobra.Command{Use: use, Short: short}, func(r *remote, args []string) error {
		var raw json.RawMessage
		if _, err := r.send(q(args), &raw); err != nil {
			return err
		}
		if raw == nil { // response to a DELETE
			raw = json.RawMessage("{}")
		}
		return r.show(raw, func(w io.Writer) {
			var p remotePlugin
			json.Unmarshal(raw, &p) // if raw is not a plugin, the fields below are empty
			fmt.Fprintf(w, done+"\n", args[0])
			if p.SHA256 != "" {
				fmt.Fprintf(w, "sha256 %s, state %s\n", p.SHA256, p.State)
			}
		})
	})
}

// pluginPath returns the path of a plugin, or of a resource below it.
func pluginPath(name string, below ...string) string {
	return "/plugins/" + strings.Join(append([]string{url.PathEscape(name)}, below...), "/")
}

func remoteCommands() []*cobra.Command {
	post := func(below string) func([]string) request {
		return func(args []string) request { return request{method: "POST", path: pluginPath(args[0], below)} }
	}
	use := func(args []string) request {
		body, _ := json.Marshal(map[string]string{"for": args[1]}) // cannot fail: a string can always be encoded
		return request{method: "POST", path: pluginPath(args[0], "activate"), body: body, kind: "application/json"}
	}
	activate := onPlugin("activate NAME USE", "Use a plugin of a gateway: for first, retry, backoff or judge", use,
		"%s is active")
	activate.Long = `Use a plugin of a running gateway as the first scorer (USE is first), the retry scorer
(retry), the backoff (backoff) or the judge (judge; the judge none ends the judging). With a [state] dir the
gateway keeps it: after a restart the plugin is in use again, unless the configuration names another since.`
	remove := func(args []string) request { return request{method: "DELETE", path: pluginPath(args[0])} }
	return []*cobra.Command{
		pushCommand(), listCommand(), activate,
		onPlugin("rollback NAME", "Put the module before the last upload back", post("rollback"), "%s is rolled back"),
		onPlugin("release NAME", "End the quarantine of a plugin", post("release"), "%s is released"),
		onPlugin("delete NAME", "Delete an uploaded plugin", remove, "%s is deleted"),
		logsCommand(), testCommand(),
	}
}

func listCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the plugins of a gateway"}
	return onGateway(cmd, func(r *remote, _ []string) error {
		var raw json.RawMessage
		if _, err := r.send(request{method: "GET", path: "/plugins"}, &raw); err != nil {
			return err
		}
		var list struct {
			Plugins []remotePlugin `json:"plugins"`
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
		return r.show(raw, func(w io.Writer) {
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tKIND\tSOURCE\tSTATE\tUSED FOR\tCALLS\tFAULTS\tSIZE\tSHA256")
			for _, p := range list.Plugins {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%.12s\n", p.Name, p.Kind, p.Source, p.State,
					strings.Join(p.UsedFor, ","), p.Calls, p.Faults, p.Size, p.SHA256)
			}
			t.Flush() // its only error is that of the output
		})
	})
}

func pushCommand() *cobra.Command {
	var o struct {
		name, use string
		config    []string
		clear     bool
	}
	cmd := &cobra.Command{
		Use: "push FILE", Short: "Upload a module to a gateway",
		Long: `Upload a module to a running gateway, as a new plugin or in place of the module that the plugin
has. The gateway checks it as verify does, and refuses a module that fails a check (exit code 1). Without
--config the settings of the module before stay.`,
		Example: "  whirlpool plugin push mine.wasm --to https://gateway.example:8889 --key-file key --activate first",
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "`NAME` of the plugin (default: of the file, without .wasm)")
	f.StringArrayVar(&o.config, "config", nil, "a setting, `KEY=VALUE`; may be repeated")
	f.BoolVar(&o.clear, "clear-config", false, "without --config: drop the settings of the module before")
	f.StringVar(&o.use, "activate", "", "then use it for `USE`: first, retry, backoff or judge")
	return onGateway(cmd, func(r *remote, args []string) error {
		code, err := os.ReadFile(args[0])
		if err != nil {
			return usageError{err}
		}
		if o.name == "" {
			o.name = strings.TrimSuffix(filepath.Base(args[0]), ".wasm")
		}
		if err := plugins.CheckName(o.name); err != nil {
			return usage("%w; set another name with --name", err)
		}
		if o.use != "" && o.use != changes.UseFirst && o.use != changes.UseRetry && o.use != changes.UseBackoff &&
			o.use != changes.UseJudge {
			return usage("--activate takes first, retry, backoff or judge")
		}
		settings, err := settings(o.config).table()
		if err != nil {
			return err
		}
		if len(settings) == 0 && !o.clear {
			settings = nil
		}
		raw, err := r.push(o.name, code, settings)
		if err != nil {
			return err
		}
		if o.use != "" {
			body, _ := json.Marshal(map[string]string{"for": o.use})
			q := request{method: "POST", path: pluginPath(o.name, "activate"), body: body, kind: "application/json"}
			if _, err := r.send(q, &raw); err != nil {
				return fmt.Errorf("%s was uploaded, but not activated: %w", o.name, err)
			}
		}
		return r.show(raw, func(w io.Writer) {
			var p remotePlugin
			json.Unmarshal(raw, &p) // push has checked raw
			fmt.Fprintf(w, "%s is a %s of %d bytes, sha256 %s\n", p.Name, p.Kind, p.Size, p.SHA256)
			if len(p.UsedFor) > 0 {
				fmt.Fprintf(w, "used for: %s\n", strings.Join(p.UsedFor, ", "))
			}
		})
	})
}

const (
	pushWait  = 2 // s; longest time for which the response to an upload waits for its end
	pollEvery = 500 * time.Millisecond
)

// push uploads a module and waits until it is in use. It returns the plugin's JSON.
func (r *remote) push(name string, code []byte, settings map[string]any) (json.RawMessage, error) {
	method, path := "PUT", pluginPath(name)
	if _, err := r.send(request{method: "GET", path: path}, nil); err != nil {
		var e *apiError
		if !errors.As(err, &e) || e.status != http.StatusNotFound {
			return nil, err
		}
		method, path = "POST", "/plugins"
	}
	body, kind, err := uploadForm(name, code, settings)
	if err != nil {
		return nil, err
	}
	var raw json.RawMessage
	status, err := r.send(request{method: method, path: path, body: body, kind: kind,
		prefer: fmt.Sprintf("wait=%d", pushWait)}, &raw)
	if err != nil {
		return nil, err
	}
	begun, noted := time.Now(), -1
	for status == http.StatusAccepted {
		var u struct {
			ID     string          `json:"id"`
			State  string          `json:"state"`
			Plugin json.RawMessage `json:"plugin"`
			Error  *apiError       `json:"error"`
		}
		if err := json.Unmarshal(raw, &u); err != nil {
			return nil, err
		}
		switch plugins.UploadState(u.State) {
		case plugins.UploadDone:
			return u.Plugin, nil
		case plugins.UploadFailed:
			return nil, u.Error
		}
		if waited := int(time.Since(begun).Seconds()); waited > noted {
			r.note("%s is being checked (%d s) ...", name, waited+pushWait)
			noted = waited
		}
		select {
		case <-r.cmd.Context().Done():
			return nil, r.cmd.Context().Err()
		case <-time.After(pollEvery):
		}
		if _, err := r.send(request{method: "GET", path: "/uploads/" + url.PathEscape(u.ID)}, &raw); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

// uploadForm returns a multipart form and its media type.
func uploadForm(name string, code []byte, settings map[string]any) (body []byte, kind string, err error) {
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	file, err := form.CreateFormFile("module", name+".wasm")
	if err != nil {
		return nil, "", err
	}
	file.Write(code) // cannot fail: it writes to a Buffer
	form.WriteField("name", name)
	if settings != nil {
		text, err := json.Marshal(settings)
		if err != nil {
			return nil, "", err
		}
		form.WriteField("config", string(text))
	}
	if err := form.Close(); err != nil {
		return nil, "", err
	}
	return b.Bytes(), form.FormDataContentType(), nil
}

func testCommand() *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use: "test NAME", Short: "Call a plugin of a gateway without using its answer",
		Long: `Call a plugin of a running gateway; nothing uses its answer. A scorer scores the proxies of the
pool, a backoff gives its delays by the policy in force, a judge rules on samples of responses. --input gives
other inputs, as POST /api/v1/plugins/NAME/test takes them.`,
	}
	cmd.Flags().StringVar(&input, "input", "", "JSON `FILE` with the inputs, or - for the standard input")
	return onGateway(cmd, func(r *remote, args []string) error {
		q := request{method: "POST", path: pluginPath(args[0], "test")}
		if input != "" {
			var err error
			if q.body, err = readInput(input, r.cmd.InOrStdin()); err != nil {
				return usageError{err}
			}
			q.kind = "application/json"
		}
		var raw json.RawMessage
		if _, err := r.send(q, &raw); err != nil {
			return err
		}
		var out struct {
			Scores []struct {
				Candidate int     `json:"candidate"`
				Proxy     string  `json:"proxy_id"`
				Score     float64 `json:"score"`
			} `json:"scores"`
			Delays  []float64 `json:"delays"`
			Rulings []struct {
				Response string  `json:"response"`
				Ruling   string  `json:"ruling"`
				Rest     float64 `json:"rest_seconds"`
			} `json:"rulings"`
			Log []logLine `json:"log"` // log lines that the call has written
		}
		if err := json.Unmarshal(raw, &out); err != nil {
			return err
		}
		return r.show(raw, func(w io.Writer) {
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			for _, s := range out.Scores {
				name := s.Proxy
				if name == "" {
					name = fmt.Sprintf("candidate %d", s.Candidate)
				}
				fmt.Fprintf(t, "%s\t%v\n", name, s.Score)
			}
			for i, d := range out.Delays {
				fmt.Fprintf(t, "delay %d\t%v s\n", i+1, d)
			}
			for _, r := range out.Rulings {
				fmt.Fprintf(t, "%s\t%s", cmp.Or(r.Response, "the response"), r.Ruling)
				if r.Rest > 0 {
					fmt.Fprintf(t, " for %v s", r.Rest)
				}
				fmt.Fprintln(t)
			}
			t.Flush() // its only error is that of the output
			for _, l := range out.Log {
				r.note("%v", l)
			}
		})
	})
}

// readInput reads a file, or the standard input for "-".
func readInput(file string, stdin io.Reader) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

// followEvery is how often logs --follow reads new lines.
const followEvery = time.Second

func logsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Print the last log lines of a plugin of a gateway",
		Long: `Print the last log lines of a plugin of a running gateway, at most 100. With --json
each line is a JSON object.`,
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until the command is ended")
	return onGateway(cmd, func(r *remote, args []string) error {
		after := uint64(0)
		for {
			var log struct {
				Lines []logLine `json:"lines"`
			}
			path := fmt.Sprintf("%s?after=%d", pluginPath(args[0], "logs"), after)
			if _, err := r.send(request{method: "GET", path: path}, &log); err != nil {
				return err
			}
			for _, l := range log.Lines {
				if err := r.printLine(l); err != nil {
					return err
				}
				after = l.Number
			}
			if !follow {
				return nil
			}
			select {
			case <-r.cmd.Context().Done():
				return nil
			case <-time.After(followEvery):
			}
		}
	})
}

// logLine is a log line of a plugin in the API's JSON.
type logLine struct {
	Number uint64    `json:"number"`
	At     time.Time `json:"at"`
	Level  string    `json:"level"`
	Text   string    `json:"text"`
}

func (r *remote) printLine(l logLine) error {
	if r.asJSON {
		return json.NewEncoder(r.cmd.OutOrStdout()).Encode(l)
	}
	_, err := fmt.Fprintln(r.cmd.OutOrStdout(), l)
	return err
}

// String returns the line as text. It removes control characters, because the plugin wrote the text and it
// goes to a terminal.
func (l logLine) String() string {
	text := strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, l.Text)
	return fmt.Sprintf("%s %-5s %s", l.At.UTC().Format("2006-01-02T15:04:05.000Z"), l.Level, text)
}
