// Command whirlpool is a forward proxy. It sends each request through the upstream proxy that is most likely
// to succeed. If the request fails, it is retried through another proxy.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
)

// version is set when the binary is built (Makefile).
var version = "dev"

func main() {
	err := root().ExecuteContext(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "whirlpool:", err)
	}
	os.Exit(exitCode(err))
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use: "whirlpool", Short: "A forward proxy that keeps traffic flowing through proxies that fail",
		SilenceUsage: true, SilenceErrors: true, Version: version,
	}
	cmd.SetVersionTemplate("whirlpool {{.Version}}\n") // the same text as the command version prints
	cmd.AddCommand(serveCommand(), checkListCommand(), configCommand(), pluginCommand(), passwdCommand(),
		stateCommand(), statusCommand(), eventsCommand(),
		&cobra.Command{
			Use: "version", Short: "Print the version",
			Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "whirlpool", version) },
		})
	usageErrors(cmd)
	return cmd
}

const defaultFile = "koanf.toml"

func serveCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the gateway and its API",
		Long: `Run the gateway and its API. Settings come from the configuration file, then
from variables WHIRLPOOL_SECTION__KEY, then from flags; koanf.toml in the
repository shows every key with its default.

A change of the file, or of a list, takes effect at once, and so does SIGHUP.
SIGTERM or SIGINT lets running requests finish; a second one ends the process.`,
		Example: "  whirlpool serve --proxies proxies.txt\n  whirlpool serve --demo",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.source.Optional = !cmd.Flags().Changed("config")
			o.source.Environ = os.Environ()
			o.source.Overrides = map[string]any{}
			for flag, key := range map[string]string{"listen": "gateway.listen", "api": "api.listen",
				"log-level": "log.level"} {
				if f := cmd.Flags().Lookup(flag); f.Changed {
					o.source.Overrides[key] = f.Value.String()
				}
			}
			if slices.Contains(o.source.Proxies, config.Stdin) {
				var err error
				if o.source.Stdin, err = config.ReadList("standard input", cmd.InOrStdin()); err != nil {
					return err
				}
			}
			return serve(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.source.File, "config", defaultFile,
		"configuration `FILE`, watched for changes; the default need not exist")
	f.StringArrayVar(&o.source.Proxies, "proxies", nil,
		"`FILE` of proxies, watched; SCHEME:FILE for lines without a scheme; - for standard input; may be repeated")
	f.StringArrayVar(&o.source.URLs, "proxy", nil, "`URL` of one proxy; may be repeated")
	f.BoolVar(&o.demo, "demo", false, "run on an embedded lab of flaky local proxies, with light traffic")
	f.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of the whole run to `FILE` (go tool pprof)")
	f.String("listen", "", "`HOST:PORT` of the gateway (gateway.listen)")
	f.String("api", "", "`HOST:PORT` of the API and the dashboard (api.listen)")
	f.String("log-level", "", "`LEVEL` of the log: debug, info, warn or error (log.level)")
	return cmd
}

// readable returns an error if a file cannot be read. It does not open a pipe, because the bytes that are
// already in the pipe would be lost.
func readable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a folder", path)
	case !info.Mode().IsRegular():
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func configCommand() *cobra.Command {
	check := &cobra.Command{
		Use: "check FILE", Short: "Check a configuration; every fault is named with its line",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := readable(args[0]); err != nil {
				return usageError{err}
			}
			cfg, err := config.Load(config.Source{File: args[0], Environ: os.Environ(), Once: true})
			var more []string
			if err == nil {
				more, err = dryRun(cfg)
			}
			if err != nil {
				return fmt.Errorf("%s is not valid\n%w", args[0], err)
			}
			for _, w := range append(cfg.Warnings, more...) {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: %d proxies\n", args[0], cfg.ProxyCount())
			return nil
		},
	}
	cmd := &cobra.Command{Use: "config", Short: "Work with configuration files"}
	cmd.AddCommand(check)
	return cmd
}
