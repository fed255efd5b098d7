// Command whirlpool is a forward proxy. It sends each request through the upstream proxy that is most likely to
// succeed. If the attempt fails, it retries the request through another upstream proxy.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
)

// version is set by the Makefile.
var version = "dev"

// commit is the commit of the sources. It ends with -dirty if the sources differed from the commit. The Makefile sets
// it, because go build records no commit with -buildvcs=false.
var commit string

func main() {
	err := rootCommand().ExecuteContext(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "whirlpool:", err)
	}
	os.Exit(exitCode(err))
}

func rootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "whirlpool", Short: "A forward proxy that keeps traffic flowing through proxies that fail",
		Long: `A forward proxy that keeps traffic flowing through proxies that fail.

The commands that work with a running gateway find its API by --url, $WHIRLPOOL_URL, or url in
` + clientFile + `, and its key by --key-file, $WHIRLPOOL_API_KEY, or key or key_file there.

Exit codes: 0 success; 1 the action failed, or a check found an error or a difference; 2 the command line is
wrong, or its input cannot be read.`,
		SilenceUsage: true, SilenceErrors: true, Version: version,
	}
	cmd.SetVersionTemplate("whirlpool {{.Version}}\n") // the same text as the command version prints
	cmd.AddCommand(serveCommand(), checkListCommand(), configCommand(), pluginCommand(), passwdCommand(), caCommand(),
		stateCommand(), auditCommand(), statusCommand(), healthCommand(), eventsCommand(), routeCommand(),
		proxiesCommand(), policyCommand(), requestCommand(), reloadCommand(), doctorCommand(), topCommand(),
		versionCommand())
	cmd.AddCommand(extraCommands()...)
	cmd.SetHelpCommand(helpCommand())
	cmd.InitDefaultHelpCmd()
	cmd.InitDefaultCompletionCmd()
	addExamples(cmd)
	checkUsage(cmd)
	fitHelp(cmd)
	return cmd
}

// helpCommand returns a command that is like cobra's command help, but fails if a command is unknown.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND...]", Short: "Help about any command",
		Long:    "Print the help of a command, as COMMAND --help does.",
		Example: "  whirlpool help proxies add",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if parent, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 {
				for _, c := range parent.Commands() {
					if c.IsAvailableCommand() {
						names = append(names, c.Name())
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			parent := cmd.Root()
			for _, name := range args {
				i := slices.IndexFunc(parent.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
				if i < 0 {
					return usageErrorf("help: %q is not a command of %s%s; see %s --help", name, parent.CommandPath(),
						similarCommand(parent, name), parent.CommandPath())
				}
				parent = parent.Commands()[i]
			}
			parent.InitDefaultHelpFlag() // the help shows these flags
			parent.InitDefaultVersionFlag()
			return parent.Help()
		},
	}
}

func versionCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !asJSON {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "whirlpool", version)
				return err
			}
			return printJSON(cmd.OutOrStdout(), readBuildInfo())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: also the commit, the version of Go, and the platform")
	return cmd
}

// buildInfo describes the binary. Commit and Time are "" if it was built outside a repository.
type buildInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"time,omitempty"` // time of the commit
	Modified bool   `json:"modified"`       // the sources differed from the commit
	Go       string `json:"go"`
	Platform string `json:"platform"` // OS/architecture
}

func readBuildInfo() buildInfo {
	b := buildInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.time":
				b.Time = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	if commit != "" {
		b.Commit, b.Modified = strings.CutSuffix(commit, "-dirty")
	}
	return b
}

const defaultConfigFile = "koanf.toml"

func serveCommand() *cobra.Command {
	var o serveOptions
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
	f.StringVar(&o.source.File, "config", defaultConfigFile,
		"configuration `FILE`, watched for changes; the default need not exist")
	f.StringArrayVar(&o.source.Proxies, "proxies", nil,
		"`FILE` of proxies, watched; SCHEME:FILE for lines without a scheme; - for standard input; may be repeated")
	f.StringArrayVar(&o.source.URLs, "proxy", nil, "`URL` of one proxy; may be repeated")
	f.BoolVar(&o.demo, "demo", false, "run on an embedded lab of flaky local proxies, with light traffic")
	f.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of the whole run to `FILE` (go tool pprof)")
	f.String("listen", "", "`HOST:PORT` of the gateway (gateway.listen)")
	f.String("api", "", "`HOST:PORT` of the API and the dashboard (api.listen)")
	f.String("log-level", "", "`LEVEL` of the log: debug, info, warn or error (log.level)")
	completeWords(cmd, "log-level", config.LogLevels)
	return cmd
}
