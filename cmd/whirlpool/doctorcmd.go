package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/doctor"
)

func doctorCommand() *cobra.Command {
	file, asJSON := defaultConfigFile, false
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can run the gateway, and what to change",
		Long: `Check whether this machine can run the gateway with its configuration: limits, ports, clock, permissions,
state folder, name resolution and kernel settings. Run it as the user of the gateway. It changes nothing.
The exit code is 1 if a check fails; warnings do not count.`,
		Example: "  whirlpool doctor --config /etc/whirlpool/koanf.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, configFinding, err := readForDoctor(file, cmd.Flags().Changed("config"))
			if err != nil {
				return err
			}
			m := doctor.ThisMachine()
			m.Running = gatewayResponds(cfg)
			findings := append([]doctor.Finding{configFinding},
				doctor.Check(cmd.Context(), m, doctorSetup(cfg, file))...)
			return reportFindings(cmd.OutOrStdout(), findings, asJSON)
		},
	}
	cmd.Flags().StringVar(&file, "config", defaultConfigFile, "configuration `FILE`; the default need not exist")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// readForDoctor reads the configuration. If the configuration has faults, readForDoctor returns the defaults. The
// finding has the number of faults or warnings.
func readForDoctor(file string, required bool) (*config.Config, doctor.Finding, error) {
	finding := doctor.Finding{Check: "configuration", Result: doctor.OK, Text: file + " is valid"}
	if required {
		if err := checkReadable(file); err != nil {
			return nil, finding, usageError{err}
		}
	}
	cfg, err := config.Load(config.Source{File: file, Optional: !required, Environ: os.Environ(), Once: true})
	if err != nil {
		defaults := config.Default()
		return &defaults, doctor.Finding{Check: "configuration", Result: doctor.Fail,
			Text:   file + " has " + plural(len(faultsOf(err, file)), "fault"),
			Advice: "whirlpool config check " + file + " lists them; the checks below use the defaults"}, nil
	}
	if !cfg.Found() {
		finding.Text = "there is no " + file + ": the defaults are used"
	}
	if n := len(cfg.Warnings); n > 0 {
		finding.Result = doctor.Warn
		finding.Text += ", with " + plural(n, "warning") + "; the first one: " + cfg.Warnings[0]
		finding.Advice = "whirlpool config check " + file + " lists them"
	}
	return cfg, finding, nil
}

func doctorSetup(cfg *config.Config, file string) *doctor.Setup {
	s := &doctor.Setup{
		File: file, Secrets: len(cfg.API.Keys) > 0 || len(cfg.Gateway.Users) > 0, StateDir: cfg.State.Dir,
		MaxConnections: cfg.Gateway.MaxConnections,
		Listen: []doctor.Listen{
			{Key: "gateway.listen", Address: cfg.Gateway.Listen}, {Key: "api.listen", Address: cfg.API.Listen},
		},
	}
	for _, key := range []string{cfg.Gateway.TLS.Key, cfg.API.TLS.Key} {
		if key != "" {
			s.KeyFiles = append(s.KeyFiles, key)
		}
	}
	for _, spec := range cfg.Engine().Proxies {
		s.Secrets = s.Secrets || spec.Source == "config" && spec.Address.Password != ""
		if host, _, err := net.SplitHostPort(spec.Address.Host); err == nil {
			s.Hosts = append(s.Hosts, host)
		}
	}
	s.Secrets = s.Secrets && cfg.Found()
	return s
}

// gatewayResponds reports whether a running gateway responds at the address of the API that cfg configures.
func gatewayResponds(cfg *config.Config) bool {
	host, port, err := net.SplitHostPort(cfg.API.Listen)
	if err != nil {
		return false
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	// The certificate need not be valid for this address. It is not verified, because the request contains no secret.
	client := http.Client{Timeout: 2 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Get(listenerURL(cfg.APITLS() != nil, net.JoinHostPort(host, port)) + "/api/v1/healthz")
	if err != nil {
		return false
	}
	defer response.Body.Close()
	var health struct{ Version, Error string } // Error is set if the API needs a key
	return json.NewDecoder(io.LimitReader(response.Body,
		1<<16)).Decode(&health) == nil && health.Version+health.Error != ""
}

// reportFindings prints findings. It returns an error if checks have failed.
func reportFindings(w io.Writer, findings []doctor.Finding, asJSON bool) error {
	failedCount := 0
	for _, f := range findings {
		if f.Result == doctor.Fail {
			failedCount++
		}
	}
	if asJSON {
		if err := printJSON(w, map[string]any{"findings": findings}); err != nil {
			return err
		}
	} else {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, f := range findings {
			fmt.Fprintf(t, "%s\t%s\t%s\n", strings.ToUpper(f.Result), f.Check, f.Text)
			if f.Advice != "" {
				fmt.Fprintf(t, "\t\t-> %s\n", f.Advice)
			}
		}
		t.Flush() // Flush fails only if a write to the output fails
	}
	if failedCount > 0 {
		return errors.New(plural(failedCount, "check") + " failed")
	}
	return nil
}

// plural returns a number with a noun in the right form, such as "1 check", "2 checks" or "2 proxies".
func plural(n int, noun string) string {
	stem, endsWithY := strings.CutSuffix(noun, "y")
	switch {
	case n == 1:
		return "1 " + noun
	case endsWithY && !strings.HasSuffix(stem, "e"):
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
