package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/plugins/conformance"
	"github.com/whirlpool-proxy/whirlpool/plugins/inspect"
	"github.com/whirlpool-proxy/whirlpool/plugins/measure"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

func pluginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "plugin", Short: "Write, check and try plugins (sdk/ABI.md)",
		Long: `Write, check and try plugins: WebAssembly modules that rank proxies (scorers) or
say how long to wait before a retry (backoffs). sdk/ABI.md is their contract.

Exit codes: 0 all is well; 1 the module failed a check; 2 the command was not
understood, or a file could not be read.`,
	}
	cmd.AddCommand(inspectCommand(), verifyCommand(), benchCommand())
	return cmd
}

// report is what each of the commands gives: JSON by its tags, text by Write.
type report interface{ Write(io.Writer) error }

func show(w io.Writer, r report, asJSON bool) error {
	if !asJSON {
		return r.Write(w)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func pluginHost() *wasmhost.Host { return wasmhost.New(wasmhost.DefaultLimits(), "") }

func readPlugin(path string) ([]byte, error) {
	code, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError{err}
	}
	return code, nil
}

// settings are --config flags.
type settings []string

// flags adds --config.
func (s *settings) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar((*[]string)(s), "config", nil, "a setting, `KEY=VALUE`, as of [plugins.NAME.config]; may be repeated")
}

func (s settings) table() (map[string]any, error) {
	config := make(map[string]any, len(s))
	for _, pair := range s {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usage("--config %q is not KEY=VALUE", pair)
		}
		if _, twice := config[key]; twice {
			return nil, usage("--config %s is given twice", key)
		}
		config[key] = value
	}
	return config, nil
}

func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "print JSON")
}

func inspectCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "inspect FILE", Short: "Show what a module declares: kind, version, exports, imports, size, memory", Args: cobra.ExactArgs(1),
		Long: `Show what a module declares: kind, ABI version, exports and imports with their
signatures, size, memory. Nothing of it runs. Of a faulty module it tells what
can be told, and what is wrong (exit code 1).`,
		RunE: func(cmd *cobra.Command, args []string) error {
			code, err := readPlugin(args[0])
			if err != nil {
				return err
			}
			r := inspect.Run(pluginHost(), code)
			if err := show(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if !r.OK {
				return fmt.Errorf("%s is no plugin that can be loaded", args[0])
			}
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func verifyCommand() *cobra.Command {
	var asJSON bool
	var config settings
	cmd := &cobra.Command{
		Use: "verify FILE", Short: "Check that a module keeps to the ABI, in whatever language it was written", Args: cobra.ExactArgs(1),
		Long: `Check that a module keeps to sdk/ABI.md, in whatever language it was written:
what it exports and imports, how it starts, reserves memory and takes settings,
what it answers to plausible requests and to those at the edge, and what that
costs. Each failed check says what to mend (exit code 1).`,
		Example: "  whirlpool plugin verify mine.wasm --config margin=0.5",
		RunE: func(cmd *cobra.Command, args []string) error {
			table, err := config.table()
			if err != nil {
				return err
			}
			code, err := readPlugin(args[0])
			if err != nil {
				return err
			}
			r := conformance.Run(pluginHost(), code, table)
			if err := show(cmd.OutOrStdout(), r, asJSON); err != nil {
				return err
			}
			if !r.OK {
				return fmt.Errorf("%s failed", args[0])
			}
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	config.flags(cmd)
	return cmd
}

func benchCommand() *cobra.Command {
	var asJSON bool
	var config settings
	cmd := &cobra.Command{
		Use: "bench FILE", Short: "Time a module beside the built-in of its kind, and count its fuel", Args: cobra.ExactArgs(1),
		Long: `Time a module's calls at 1, 10, 100 and 1,000 candidates and count their fuel,
beside the built-in of its kind (performance or exponential) in the same run.
It takes about seven seconds.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			table, err := config.table()
			if err != nil {
				return err
			}
			code, err := readPlugin(args[0])
			if err != nil {
				return err
			}
			r, err := measure.Run(pluginHost(), code, measure.Options{
				Config: table, Now: time.Now, Round: measure.DefaultRound, Rounds: measure.DefaultRounds,
				Progress: func(step string) { fmt.Fprintf(cmd.ErrOrStderr(), "%s ...\n", step) },
			})
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return show(cmd.OutOrStdout(), r, asJSON)
		},
	}
	jsonFlag(cmd, &asJSON)
	config.flags(cmd)
	return cmd
}
