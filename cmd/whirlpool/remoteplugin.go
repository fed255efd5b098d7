package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/core/changes"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// The commands in this file work with the plugins of a running gateway.

// remotePlugin is a plugin in the API's JSON. It has only the fields that the text output shows.
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

// pluginRequestCommand returns a command that sends one request about a plugin to the API. Then the command prints
// successText, in which %s stands for the plugin's name.
func pluginRequestCommand(use, short string, q func(args []string) request, successText string) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, ValidArgsFunction: completePlugins()}
	return gatewayCommand(cmd, func(r *remote, args []string) error {
		var raw json.RawMessage
		if _, err := r.send(q(args), &raw); err != nil {
			return err
		}
		if raw == nil { // the response to a DELETE has no body
			raw = json.RawMessage("{}")
		}
		return r.print(raw, func(w io.Writer) {
			var p remotePlugin
			json.Unmarshal(raw, &p) // if raw is not a plugin, the fields of p stay empty
			fmt.Fprintf(w, successText+"\n", args[0])
			if p.SHA256 != "" {
				fmt.Fprintf(w, "sha256 %s, state %s\n", p.SHA256, p.State)
			}
		})
	})
}

// pluginPath returns the path of a plugin in the API, or of a resource of the plugin, such as /plugins/NAME/logs.
func pluginPath(name string, resource ...string) string {
	return "/plugins/" + strings.Join(append([]string{url.PathEscape(name)}, resource...), "/")
}

var pluginUses = []string{changes.UseFirst, changes.UseRetry, changes.UseBackoff, changes.UseJudge}

func remoteCommands() []*cobra.Command {
	post := func(below string) func([]string) request {
		return func(args []string) request { return request{method: "POST", path: pluginPath(args[0], below)} }
	}
	use := func(args []string) request {
		body, _ := json.Marshal(map[string]string{"for": args[1]}) // its error is always nil: strings can be encoded
		return request{method: "POST", path: pluginPath(args[0], "activate"), body: body}
	}
	activate := pluginRequestCommand("activate NAME USE",
		"Use a plugin of a gateway: for first, retry, backoff or judge", use,
		"%s is active")
	activate.ValidArgsFunction = completePlugins(pluginUses...)
	activate.Long = `Use a plugin of a running gateway as the first scorer (USE is first), the retry scorer
(retry), the backoff (backoff) or the judge (judge; the judge none ends the judging). With a [state] dir the
gateway keeps it: after a restart the plugin is in use again, unless the configuration names another since.`
	remove := func(args []string) request { return request{method: "DELETE", path: pluginPath(args[0])} }
	return []*cobra.Command{
		pushCommand(), listCommand(), activate,
		pluginRequestCommand("rollback NAME", "Put the module before the last upload back", post("rollback"),
			"%s is rolled back"),
		pluginRequestCommand("release NAME", "End the quarantine of a plugin", post("release"), "%s is released"),
		pluginRequestCommand("delete NAME", "Delete an uploaded plugin", remove, "%s is deleted"),
		logsCommand(), testCommand(),
	}
}

func listCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the plugins of a gateway"}
	return gatewayCommand(cmd, func(r *remote, _ []string) error {
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
		return r.print(raw, func(w io.Writer) {
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tKIND\tSOURCE\tSTATE\tUSED FOR\tCALLS\tFAULTS\tSIZE\tSHA256")
			for _, p := range list.Plugins {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%.12s\n", p.Name, p.Kind, p.Source, p.State,
					strings.Join(p.UsedFor, ","), p.Calls, p.Faults, p.Size, p.SHA256)
			}
			t.Flush() // Flush fails only if a write to the output fails
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
--config, the settings of the previous module are kept.`,
		Example: "  whirlpool plugin push mine.wasm --url https://gateway.example:8889 --key-file key --activate first",
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "`NAME` of the plugin (default: of the file, without .wasm)")
	f.StringArrayVar(&o.config, "config", nil, "a setting, `KEY=VALUE`; may be repeated")
	f.BoolVar(&o.clear, "clear-config", false, "without --config: drop the settings of the previous module")
	f.StringVar(&o.use, "activate", "", "then use it for `USE`: first, retry, backoff or judge")
	completeWords(cmd, "activate", pluginUses)
	return gatewayCommand(cmd, func(r *remote, args []string) error {
		if err := checkWord("--activate", o.use, pluginUses); err != nil {
			return err
		}
		code, err := os.ReadFile(args[0])
		if err != nil {
			return usageError{err}
		}
		if !bytes.HasPrefix(code, []byte("\x00asm")) {
			return usageErrorf("%s is not a WebAssembly module; give the .wasm file that the compiler wrote", args[0])
		}
		if o.name == "" {
			o.name = strings.TrimSuffix(filepath.Base(args[0]), ".wasm")
		}
		if err := plugins.CheckName(o.name); err != nil {
			return usageErrorf("%w; set another name with --name", err)
		}
		settings, err := settings(o.config).toMap()
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
			q := request{method: "POST", path: pluginPath(o.name, "activate"), body: body}
			if _, err := r.send(q, &raw); err != nil {
				return fmt.Errorf("%s was uploaded, but not activated: %w", o.name, err)
			}
		}
		return r.print(raw, func(w io.Writer) {
			var p remotePlugin
			json.Unmarshal(raw, &p) // its error is ignored: raw comes from push
			fmt.Fprintf(w, "%s is a %s of %d bytes, sha256 %s\n", p.Name, p.Kind, p.Size, p.SHA256)
			if len(p.UsedFor) > 0 {
				fmt.Fprintf(w, "used for: %s\n", strings.Join(p.UsedFor, ", "))
			}
		})
	})
}

const (
	maxPushWait  = 2 // seconds; maximum time for which the API delays its response until the upload has ended
	pollInterval = 500 * time.Millisecond
)

// The method push uploads a module, and waits until the gateway has checked the module and put it into the plugin. It
// returns the plugin's JSON.
func (r *remote) push(name string, code []byte, settings map[string]any) (json.RawMessage, error) {
	method, path := "PUT", pluginPath(name)
	if _, err := r.send(request{method: "GET", path: path}, nil); err != nil {
		var e *client.Error
		if !errors.As(err, &e) || e.Status != http.StatusNotFound {
			return nil, err
		}
		method, path = "POST", "/plugins"
	}
	body, kind, err := uploadForm(name, code, settings)
	if err != nil {
		return nil, err
	}
	var raw json.RawMessage
	status, err := r.upload(method, path, body, kind, &raw)
	if err != nil {
		return nil, err
	}
	start, lastNote := time.Now(), -1
	for status == http.StatusAccepted {
		var u struct {
			ID     string          `json:"id"`
			State  string          `json:"state"`
			Plugin json.RawMessage `json:"plugin"`
			Error  *client.Error   `json:"error"`
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
		if waited := int(time.Since(start).Seconds()); waited > lastNote {
			r.printNote("%s is being checked (%d s) ...", name, waited+maxPushWait)
			lastNote = waited
		}
		select {
		case <-r.cmd.Context().Done():
			return nil, r.cmd.Context().Err()
		case <-time.After(pollInterval):
		}
		if _, err := r.send(request{method: "GET", path: "/uploads/" + url.PathEscape(u.ID)}, &raw); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

// The method upload sends the form, which contains a module, and decodes the response into v. It returns the status of
// the response: 202 if the gateway has not yet finished the checks of the module.
func (r *remote) upload(method, path string, form []byte, kind string, v any) (status int, err error) {
	q, err := http.NewRequestWithContext(r.context(), method, r.api.Base.String()+path, bytes.NewReader(form))
	if err != nil {
		return 0, err
	}
	q.Header.Set("Content-Type", kind)
	q.Header.Set("Prefer", fmt.Sprintf("wait=%d", maxPushWait))
	response, err := r.api.Send(q)
	if err != nil {
		return r.addAdvice(err)
	}
	defer response.Body.Close()
	return response.StatusCode, json.NewDecoder(response.Body).Decode(v)
}

// uploadForm returns the multipart form for the upload of a module, and the media type of the form.
func uploadForm(name string, code []byte, settings map[string]any) (body []byte, kind string, err error) {
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	file, err := form.CreateFormFile("module", name+".wasm")
	if err != nil {
		return nil, "", err
	}
	file.Write(code) // its error is always nil: it writes to a Buffer
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
		Use: "test NAME", Short: "Call a plugin of a gateway without using its result",
		Long: `Call a plugin of a running gateway; its result is not used. A scorer scores the proxies of the
pool, a backoff gives its delays by the policy in force, a judge rules on samples of responses. --input gives
other inputs, as POST /api/v1/plugins/NAME/test takes them.`,
	}
	cmd.Flags().StringVar(&input, "input", "", "JSON `FILE` with the inputs, or - for the standard input")
	return gatewayCommand(cmd, func(r *remote, args []string) error {
		q := request{method: "POST", path: pluginPath(args[0], "test")}
		if input != "" {
			var err error
			if q.body, err = readInput(input, r.cmd.InOrStdin()); err != nil {
				return usageError{err}
			}
			if !json.Valid(q.body) {
				return usageErrorf("%s is not JSON", input)
			}
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
			Log []logLine `json:"log"` // lines that the plugin has logged during the call
		}
		if err := json.Unmarshal(raw, &out); err != nil {
			return err
		}
		return r.print(raw, func(w io.Writer) {
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
			t.Flush() // Flush fails only if a write to the output fails
			for _, l := range out.Log {
				r.printNote("%v", l)
			}
		})
	})
}

// readInput reads a file; "-" stands for the standard input.
func readInput(file string, stdin io.Reader) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(file)
}

// followInterval is the interval at which `logs --follow` reads new lines.
const followInterval = time.Second

func logsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Print the last log lines of a plugin of a gateway",
		Long: `Print the last log lines of a plugin of a running gateway, at most 100. With --json
each line is a JSON object.`,
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines until the command is ended")
	return gatewayCommand(cmd, func(r *remote, args []string) error {
		lastNumber := uint64(0)
		for {
			var log struct {
				Lines []logLine `json:"lines"`
			}
			path := fmt.Sprintf("%s?after=%d", pluginPath(args[0], "logs"), lastNumber)
			if _, err := r.send(request{method: "GET", path: path}, &log); err != nil {
				return err
			}
			for _, l := range log.Lines {
				if err := r.printLine(l); err != nil {
					return err
				}
				lastNumber = l.Number
			}
			if !follow {
				return nil
			}
			select {
			case <-r.cmd.Context().Done():
				return nil
			case <-time.After(followInterval):
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

// String returns the line as text.
func (l logLine) String() string {
	return fmt.Sprintf("%s %-5s %s", l.At.UTC().Format("2006-01-02T15:04:05.000Z"), l.Level, replaceControls(l.Text))
}

// replaceControls replaces the control characters in a text that a plugin, a proxy or a target may have written. They
// could change what the terminal shows.
func replaceControls(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}
