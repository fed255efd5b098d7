package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/core/breaker"
	"github.com/whirlpool-proxy/whirlpool/plugins/conformance"
	"github.com/whirlpool-proxy/whirlpool/plugins/inspect"
	"github.com/whirlpool-proxy/whirlpool/plugins/measure"
	"github.com/whirlpool-proxy/whirlpool/plugins/output"
	"github.com/whirlpool-proxy/whirlpool/plugins/scaffold"
	"github.com/whirlpool-proxy/whirlpool/plugins/simulate"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func pluginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "plugin", Short: "Write, check and try plugins, and load them into a gateway",
		Long: `Write, check and try plugins: WebAssembly modules that rank proxies (scorers),
compute the wait before a retry (backoffs) or rule on responses (judges).
sdk/ABI.md is their contract.

push, list, activate, rollback, release, delete, logs and test work with a running
gateway: --url is the URL of its API, and the key comes from --key-file or
$WHIRLPOOL_API_KEY.

Exit codes: 0 success; 1 the module failed a check, or the command failed; 2 the
command line is wrong, or a file cannot be read.`,
	}
	cmd.AddCommand(
		inspectCommand(), verifyCommand(), benchCommand(), simulateCommand(), newCommand(), recordCommand(),
		checkCommand(),
	)
	cmd.AddCommand(remoteCommands()...)
	return cmd
}

// reportWriter is the result of a command. Its JSON is the output with --json; Write prints it as text.
type reportWriter interface{ Write(io.Writer) error }

// The method host returns a WebAssembly host that keeps the module's log in f.output.
func (f *moduleFile) host() *wasmhost.Host {
	return wasmhost.New(wasmhost.DefaultLimits(), "").WithOutput(f.output)
}

// moduleFile is the module on which a command works.
type moduleFile struct {
	cmd           *cobra.Command
	file          string
	code          []byte
	config        map[string]any
	asJSON        bool
	output        *output.Output
	expectsFaults bool // the command makes calls that must fail, so errors in the log do not show a fault of the module
}

// maxLogLines is the maximum number of log lines that showLog prints.
const maxLogLines = 20

// showLog prints the last log lines of the module to the standard error output.
func (f *moduleFile) showLog() {
	lines := f.output.Lines(0)
	if len(lines) == 0 {
		return
	}
	w := f.cmd.ErrOrStderr()
	if f.expectsFaults {
		fmt.Fprintln(w, "the module's log; errors in it are not faults, since some checks make calls that must fail:")
	} else {
		fmt.Fprintln(w, "the module's log:")
	}
	if hidden := len(lines) - maxLogLines; hidden > 0 {
		fmt.Fprintf(w, "  (%d lines before)\n", hidden)
		lines = lines[hidden:]
	}
	for _, l := range lines {
		fmt.Fprintf(w, "  %v\n", l)
	}
}

// moduleCommand makes cmd read the module file in its first argument, and call run. The module gets no settings.
func moduleCommand(cmd *cobra.Command, run func(*moduleFile) error) *cobra.Command {
	s := &moduleFile{cmd: cmd, output: output.New(time.Now, nil)}
	cmd.Flags().BoolVar(&s.asJSON, "json", false, "print JSON")
	cmd.RunE = func(_ *cobra.Command, args []string) (err error) {
		s.file = args[0]
		if s.code, err = os.ReadFile(s.file); err != nil {
			return usageError{err}
		}
		defer s.showLog()
		return run(s)
	}
	return cmd
}

// configuredModuleCommand is like moduleCommand, with the flag --config for the module's settings.
func configuredModuleCommand(cmd *cobra.Command, run func(*moduleFile) error) *cobra.Command {
	var config settings
	cmd.Flags().StringArrayVar((*[]string)(&config), "config", nil,
		"a setting, `KEY=VALUE`, as of [plugins.NAME.config]; may be repeated")
	return moduleCommand(cmd, func(s *moduleFile) (err error) {
		if s.config, err = config.toMap(); err != nil {
			return err
		}
		return run(s)
	})
}

func (f *moduleFile) printReport(r reportWriter) error {
	if !f.asJSON {
		return r.Write(f.cmd.OutOrStdout())
	}
	return printJSON(f.cmd.OutOrStdout(), r)
}

// settings are the values of the flag --config, each KEY=VALUE.
type settings []string

func (s settings) toMap() (map[string]any, error) {
	config := make(map[string]any, len(s))
	for _, pair := range s {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usageErrorf("--config %q is not KEY=VALUE", pair)
		}
		if _, isRepeated := config[key]; isRepeated {
			return nil, usageErrorf("--config %s is given twice", key)
		}
		config[key] = value
	}
	return config, nil
}

func inspectCommand() *cobra.Command {
	return moduleCommand(&cobra.Command{
		Use: "inspect FILE", Short: "Show what a module declares: kind, version, exports, imports, size, memory",
		Long: `Show what a module declares: kind, ABI version, exports and imports with their
signatures, size, memory. The module does not run. For a faulty module, the part
that can be read is shown, with the fault (exit code 1).`,
	}, func(s *moduleFile) error {
		r := inspect.Run(s.host(), s.code)
		if err := s.printReport(r); err != nil {
			return err
		}
		if !r.OK {
			return fmt.Errorf("%s cannot be loaded as a plugin", s.file)
		}
		return nil
	})
}

func verifyCommand() *cobra.Command {
	return configuredModuleCommand(&cobra.Command{
		Use: "verify FILE", Short: "Check that a module follows the ABI, whatever language it was written in",
		Long: `Check that a module follows sdk/ABI.md, whatever language it was written in: its
exports and imports, its start, memory and settings, its results for plausible and
for extreme requests, and the cost of its calls. The report on a failed check
states what to change (exit code 1).`,
		Example: "  whirlpool plugin verify mine.wasm --config margin=0.5",
	}, func(s *moduleFile) error {
		s.expectsFaults = true
		r := conformance.Run(s.host(), s.code, s.config)
		if err := s.printReport(r); err != nil {
			return err
		}
		if !r.OK {
			return fmt.Errorf("%s failed", s.file)
		}
		return nil
	})
}

func benchCommand() *cobra.Command {
	return configuredModuleCommand(&cobra.Command{
		Use: "bench FILE", Short: "Time a module beside the built-in of its kind, and count its fuel",
		Long: `Time a module's calls at 1, 10, 100 and 1,000 candidates and count their fuel,
beside the built-in of its kind (performance, exponential or ban_like) in the same run.
It takes about seven seconds.`,
	}, func(s *moduleFile) error {
		r, err := measure.Run(s.host(), s.code, measure.Options{
			Config: s.config, Now: time.Now, RoundTime: measure.DefaultRound, Rounds: measure.DefaultRounds,
			Progress: func(step string) { fmt.Fprintf(s.cmd.ErrOrStderr(), "%s ...\n", step) },
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.file, err)
		}
		return s.printReport(r)
	})
}

func simulateCommand() *cobra.Command {
	var o struct {
		trace, generate, write string
		seed                   uint64
		ascii                  bool
		jitter, breakers       bool
	}
	cmd := configuredModuleCommand(&cobra.Command{
		Use: "simulate FILE", Short: "Simulate a module and the built-ins on a trace: a table and a plot",
		Long: `Simulate a module and the built-ins on a trace, with virtual time and random
numbers from a seed: the same arguments give the same result.

A scorer chooses a proxy for each request of the trace, by the gateway's own
rules; it is compared with performance, random, and an oracle that knows the trace.
Regret is the expected number of additional successes if each request had used the
proxy with the highest probability of success.

A backoff is compared with the built-in backoffs on outages of random length; it
needs no trace.

A trace is JSON lines. An optional line without "proxy" describes the requests.
Each other line describes a proxy from the time "at" (in seconds) on; values that
are missing in a later line do not change:

  {"duration": 600, "rate": 20, "hosts": 8, "region": "EU", "start": 1767225600}
  {"proxy": "a", "at": 0, "success": 0.98, "latency": 0.05, "cost": 2, "region": "EU"}
  {"proxy": "b", "at": 0, "success": 0.80, "latency": 0.20}
  {"proxy": "a", "at": 300, "success": 0.4}

A proxy may also have "weight" and "metadata" (an object of texts). plugin record
writes the trace of a running gateway. Without --trace one is generated, and
SPEC is one of

` + scenarioList() + `
and, after commas, settings: swap,proxies=5,duration=600,rate=20,hosts=8.`,
		Example: "  whirlpool plugin simulate mine.wasm\n" +
			"  whirlpool plugin simulate mine.wasm --generate outage,proxies=10 --write-trace outage.jsonl\n" +
			"  whirlpool plugin simulate mine.wasm --trace outage.jsonl --seed 2",
	}, func(s *moduleFile) error {
		if o.trace != "" && s.cmd.Flags().Changed("generate") {
			return usageErrorf("give --trace or --generate, not both")
		}
		t, err := readTrace(o.trace, o.generate, o.seed)
		if err != nil {
			return err
		}
		if o.write != "" {
			if err := writeTrace(o.write, t); err != nil {
				return err
			}
		}
		host := s.host()
		plugin := simulate.Plugin{Name: strings.TrimSuffix(filepath.Base(s.file), ".wasm"), Code: s.code,
			Config: s.config}
		d, err := host.Describe(s.code)
		if err != nil {
			return fmt.Errorf("%s: %w", s.file, err)
		}
		style := simulate.Unicode()
		if o.ascii {
			style = simulate.ASCII()
		}
		if d.Kind == wasmhost.Judge {
			return fmt.Errorf("%s is a judge; a trace has no responses to rule on; use whirlpool plugin test", s.file)
		}
		if d.Kind == wasmhost.Backoff {
			r, err := simulate.SimulateBackoff(host, plugin, o.jitter, o.seed)
			if err != nil {
				return err
			}
			return printSimulation(s, r, style, r.Results[0].Faults)
		}
		breakers := simulate.NoBreaker()
		if o.breakers {
			breakers = breaker.Default()
		}
		r, err := simulate.SimulateScorer(host, plugin, t, breakers, o.seed)
		if err != nil {
			return err
		}
		return printSimulation(s, r, style, r.Results[0].Faults)
	})
	f := cmd.Flags()
	f.StringVar(&o.trace, "trace", "", "`FILE` of a trace")
	f.StringVar(&o.generate, "generate", "swap", "make a trace by this `SPEC`")
	completeWords(cmd, "generate", scenarioNames())
	f.StringVar(&o.write, "write-trace", "", "write the trace to `FILE` as well")
	f.Uint64Var(&o.seed, "seed", 1, "`N` from which all random numbers are made")
	f.BoolVar(&o.ascii, "ascii", false, "draw with ASCII only")
	f.BoolVar(&o.breakers, "breakers", false, "scorers: with circuit breakers of the default thresholds")
	f.BoolVar(&o.jitter, "jitter", false, "backoffs: the policy asks for jitter")
	return cmd
}

func scenarioNames() (names []string) {
	for _, s := range simulate.Scenarios {
		names = append(names, s.Name)
	}
	return names
}

func scenarioList() string {
	var b strings.Builder
	for _, s := range simulate.Scenarios {
		fmt.Fprintf(&b, "  %-8s %s\n", s.Name, s.Shows)
	}
	return b.String()
}

func readTrace(path, spec string, seed uint64) (*simulate.Trace, error) {
	if path == "" {
		t, err := simulate.Generate(spec, seed)
		if err != nil {
			return nil, usageErrorf("--generate %s: %w", spec, err)
		}
		return t, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usageError{err}
	}
	defer f.Close()
	t, err := simulate.Read(f)
	if err != nil {
		return nil, usageErrorf("%s: %w", path, err)
	}
	return t, nil
}

func writeTrace(path string, t *simulate.Trace) error {
	f, err := os.Create(path)
	if err != nil {
		return usageError{err}
	}
	if err := t.Write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

type simulation interface {
	Write(io.Writer, simulate.Style) error
}

// styledReport is the report of a simulation. Its JSON does not contain the style.
type styledReport struct {
	simulation
	style simulate.Style
}

func (r styledReport) Write(w io.Writer) error { return r.simulation.Write(w, r.style) }

// MarshalJSON encodes the simulation only.
func (r styledReport) MarshalJSON() ([]byte, error) { return json.Marshal(r.simulation) }

func printSimulation(s *moduleFile, p simulation, style simulate.Style, faults int) error {
	if err := s.printReport(styledReport{p, style}); err != nil {
		return err
	}
	if faults > 0 {
		return fmt.Errorf("%d calls failed", faults)
	}
	return nil
}

func newCommand() *cobra.Command {
	var p scaffold.Plugin
	var kind, dir string
	asJSON := false
	cmd := &cobra.Command{
		Use: "new NAME", Short: "Create a plugin: a folder that builds and passes its test",
		Long: `Create a plugin: a folder with source, test, Makefile, README and the SDK, which
builds and passes its test. NAME is the name of the plugin in the gateway: a
lower-case letter and up to 63 lower-case letters, digits, _ or -.`,
		Example: "  whirlpool plugin new mine --lang go --kind scorer",
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Name, p.Kind = args[0], wasmhost.Kind(kind)
			if dir == "" {
				dir = p.Name
			}
			files, err := scaffold.Write(dir, p)
			if errors.Is(err, scaffold.ErrArgument) {
				return usageError{err}
			}
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, map[string]any{"dir": dir, "files": files})
			}
			for _, f := range files {
				fmt.Fprintln(out, filepath.Join(dir, f))
			}
			fmt.Fprintf(out, "\nThe SDK is in %s. Next: cd %s && make && make test; the README has the rest.\n",
				filepath.Join(dir, "whirlpool"), dir)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.Lang, "lang", "", "`LANGUAGE`, one of "+strings.Join(scaffold.Languages(), ", ")+"; required")
	f.StringVar(&kind, "kind", "", "`KIND`, scorer, backoff or judge; required")
	f.StringVar(&dir, "dir", "", "`DIR` to write, new or empty (default NAME)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	completeWords(cmd, "lang", scaffold.Languages())
	completeWords(cmd, "kind", []string{"scorer", "backoff", "judge"})
	return cmd
}
