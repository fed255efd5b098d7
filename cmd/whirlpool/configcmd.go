package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Write, check and compare configuration files"}
	cmd.AddCommand(configInitCommand(), configCheckCommand(), configFormatCommand(), configDiffCommand())
	return cmd
}

// checkReadable returns an error if a file cannot be read. It does not open a pipe, because its bytes would be lost.
func checkReadable(path string) error {
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

// fileResult is the JSON output of the commands `config init` and `config fmt`.
type fileResult struct {
	File    string `json:"file"`
	Written bool   `json:"written"`           // whether the command has written the file
	Uniform *bool  `json:"uniform,omitempty"` // set by fmt: whether the file was in the uniform form
	Content string `json:"content,omitempty"` // what the command would print without --json
}

func configInitCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use: "init [FILE]", Short: "Write a configuration with every key, its default and a comment",
		Long: `Write a configuration file with every key, its default and a comment. FILE is ` + defaultConfigFile +
			` by
default, and - is the standard output. A file that exists is not changed.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			file, out := defaultConfigFile, cmd.OutOrStdout()
			if len(args) > 0 {
				file = args[0]
			}
			if file == "-" {
				if asJSON {
					return printJSON(out, fileResult{File: file, Content: string(whirlpool.Koanf)})
				}
				_, err := out.Write(whirlpool.Koanf)
				return err
			}
			// The user will write secrets into the file, so only the user can read it.
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists and is not changed; name another file, or remove it", file)
			}
			if err != nil {
				return usageError{err}
			}
			_, err = f.Write(whirlpool.Koanf)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			if asJSON {
				return printJSON(out, fileResult{File: file, Written: true})
			}
			fmt.Fprintf(out, "%s is written; next: edit it, then whirlpool serve --config %s\n", file, file)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// checkResult is the JSON output of the command `config check`.
type checkResult struct {
	File     string           `json:"file"`
	Valid    bool             `json:"valid"`
	Proxies  int              `json:"proxies"`
	Lists    []config.Reading `json:"lists"`
	Faults   []config.Fault   `json:"faults"`
	Warnings []string         `json:"warnings"`

	byURL int // number of proxy lists that are fetched by URL
}

func configCheckCommand() *cobra.Command {
	asJSON, offline, timeout := false, false, 10*time.Second
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Check a configuration and print each error with its line",
		Long: `Check a configuration file, together with the variables WHIRLPOOL_SECTION__KEY. All errors are printed at
once, each with its line. For each proxy list, the forms of its entries, three samples and the number of
entries that are left out are printed; a list by URL is fetched for this, except with --offline. Warnings
name valid settings that contradict each other, and lists that were not fetched. The exit code is 1 if
there is an error.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkReadable(args[0]); err != nil {
				return usageError{err}
			}
			if timeout <= 0 {
				return usageErrorf("--timeout must be above 0")
			}
			src := config.Source{File: args[0], Environ: os.Environ(), Once: true}
			if !offline {
				var out io.Writer
				if isTerminal(cmd.ErrOrStderr()) {
					out = cmd.ErrOrStderr()
				}
				fetches := newListFetches(cmd.Context(), timeout, out)
				src.Fetch = fetches.fetch
				defer fetches.clearProgress()
			}
			result := checkFile(src)
			invalid := fmt.Errorf("%s is not valid", args[0])
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), result); err != nil || result.Valid {
					return err
				}
				return invalid
			}
			for _, w := range result.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			if !result.Valid {
				return fmt.Errorf("%w\n%w", invalid, &config.Error{Faults: result.Faults})
			}
			for _, l := range result.Lists {
				printList(cmd.OutOrStdout(), &l)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: %s\n", args[0], plural(result.Proxies, "proxy"))
			if offline && result.byURL > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "%s by URL: not fetched (--offline)\n", plural(result.byURL, "list"))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&offline, "offline", false, "do not fetch the proxy lists by URL")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "maximum `TIME` to fetch a proxy list")
	return cmd
}

// printList prints how the gateway reads a proxy list.
func printList(w io.Writer, l *config.Reading) {
	fmt.Fprintf(w, "%s: %s\n", l.Name, plural(l.Proxies, "proxy"))
	counts := func(title string, m map[string]int) {
		if len(m) == 0 {
			return
		}
		const maxKinds = 10
		keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
			return cmp.Or(m[b]-m[a], strings.Compare(a, b))
		})
		for i, k := range keys {
			if i == maxKinds {
				fmt.Fprintf(w, "  %s of %d other kinds\n", title, len(keys)-i)
				break
			}
			fmt.Fprintf(w, "  %s %d: %s\n", title, m[k], k)
		}
	}
	counts("read", l.Forms)
	for i, s := range l.Samples {
		if len(l.IDs) > 0 {
			s += ", id " + l.IDs[i]
		}
		fmt.Fprintf(w, "  such as %s\n", s)
	}
	counts("left out", l.Skipped)
}

// checkFile checks a configuration file. The result has all faults: those that package config finds, and those that
// the parts of the gateway find, such as the engine (dryRun).
func checkFile(src config.Source) checkResult {
	file := src.File
	result := checkResult{File: file, Lists: []config.Reading{}, Faults: []config.Fault{}, Warnings: []string{}}
	cfg, err := config.Examine(src)
	result.Faults = append(result.Faults, faultsOf(err, file)...)
	if cfg != nil {
		warnings, err := checkParts(cfg)
		result.Faults = append(result.Faults, newFaults(result.Faults, faultsOf(err, file))...)
		result.Warnings = append(append(result.Warnings, cfg.Warnings...), warnings...)
		result.byURL = len(cfg.Pool.URLs)
		result.Proxies, result.Lists = cfg.ProxyCount(), append(result.Lists, cfg.Readings...)
	}
	result.Valid = len(result.Faults) == 0
	return result
}

// newFaults returns the faults in list that do not report the same mistake as a fault in known. Two faults report the
// same mistake if they have the same key, or if the key of one is a table that contains the key of the other. The
// fault of a rule that intercepts is also left out if [intercept] has a fault, because the rule needs the authority
// that [intercept] configures.
func newFaults(known, list []config.Fault) (added []config.Fault) {
	for _, f := range list {
		found := false
		for _, k := range known {
			found = found || strings.HasSuffix(f.Key, ".then.intercept") && strings.HasPrefix(k.Key, "intercept.")
			found = found || f.Key == k.Key || strings.HasPrefix(k.Key, f.Key+".") || strings.HasPrefix(f.Key, k.Key+
				".")
		}
		if !found {
			added = append(added, f)
		}
	}
	return added
}

func configFormatCommand() *cobra.Command {
	write, check, asJSON := false, false, false
	cmd := &cobra.Command{
		Use: "fmt FILE", Short: "Print a configuration in a uniform form, with its comments",
		Long: `Print a configuration file in a uniform form: the spaces and empty lines of koanf.toml. Values, order and
comments stay. FILE can be - for the standard input.`,
	}
	f := cmd.Flags()
	f.BoolVarP(&write, "write", "w", false, "write the result to the file")
	f.BoolVar(&check, "check", false, "print nothing; the exit code is 1 if the file is in another form")
	f.BoolVar(&asJSON, "json", false, "print JSON; with --check and --write, without the contents of the file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		file := args[0]
		if write && (check || file == "-") {
			return usageErrorf("--write needs a file, and excludes --check")
		}
		text, err := readInput(file, cmd.InOrStdin())
		if err != nil {
			return usageError{err}
		}
		formatted, err := config.Format(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		uniform := bytes.Equal(text, formatted)
		result := fileResult{File: file, Written: write && !uniform, Uniform: &uniform}
		if result.Written {
			if err := replaceFile(file, formatted); err != nil {
				return err
			}
		}
		if !check && !write {
			result.Content = string(formatted)
		}
		if asJSON {
			err = printJSON(cmd.OutOrStdout(), result)
		} else {
			_, err = io.WriteString(cmd.OutOrStdout(), result.Content)
		}
		if err == nil && check && !uniform {
			err = fmt.Errorf("%s is in another form; write it with whirlpool config fmt -w %s", file, file)
		}
		return err
	}
	return cmd
}

// replaceFile replaces the contents of a file in one step. As a result, a gateway that watches the file never reads
// an incomplete file. The mode of the file stays the same. If the file is a symbolic link, the link stays and its
// target is replaced.
func replaceFile(file string, text []byte) error {
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(target), ".whirlpool-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), target)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

func configDiffCommand() *cobra.Command {
	return gatewayCommand(&cobra.Command{
		Use: "diff FILE", Short: "Compare a configuration file with the configuration of a running gateway",
		Long: `Compare a configuration file with the configuration of a running gateway: what a reload would change. A
line with - has the value in force, a line with + the value of the file. Variables of this shell count, flags of
the gateway do not. Secrets are masked, so a change of a secret is not found. The exit code is 1 if there
is a difference.`,
	}, func(r *remote, args []string) error {
		if err := checkReadable(args[0]); err != nil {
			return usageError{err}
		}
		cfg, err := config.Load(config.Source{File: args[0], Environ: os.Environ(), Once: true})
		if err != nil {
			return fmt.Errorf("%s is not valid\n%w", args[0], err)
		}
		file, err := json.Marshal(cfg)
		if err != nil {
			return err
		}
		var running struct {
			Config json.RawMessage
			File   string
		}
		if err := r.get("/config", &running); err != nil {
			return err
		}
		list, err := config.Differences(config.Document{JSON: running.Config, File: running.File},
			config.Document{JSON: file, File: args[0]})
		if err != nil {
			return err
		}
		if err := r.print(map[string]any{"differences": list}, func(w io.Writer) {
			printDifferences(w, list)
		}); err != nil {
			return err
		}
		if len(list) > 0 {
			return fmt.Errorf("%s and the configuration in force differ in %s", args[0], plural(len(list), "key"))
		}
		return nil
	})
}

func printDifferences(w io.Writer, list []config.Difference) {
	for _, d := range list {
		if d.Running != "" {
			fmt.Fprintf(w, "- %s = %s\n", d.Key, d.Running)
		}
		if d.File != "" {
			fmt.Fprintf(w, "+ %s = %s\n", d.Key, d.File)
		}
	}
}
