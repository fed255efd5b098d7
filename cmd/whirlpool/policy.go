package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// The commands in this file work with the retry policy and the configuration of a running gateway.

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Show or change the retry policy of a running gateway"}
	cmd.AddCommand(getPolicyCommand(), setPolicyCommand(), resetPolicyCommand())
	return cmd
}

const policyPath = "/retry/policy"

func getPolicyCommand() *cobra.Command {
	return gatewayCommand(&cobra.Command{Use: "get", Short: "Print the retry policy"},
		func(r *remote, _ []string) error {
			var raw json.RawMessage
			if err := r.get(policyPath, &raw); err != nil {
				return err
			}
			return r.showFields(raw)
		})
}

func setPolicyCommand() *cobra.Command {
	noPersist := false
	cmd := &cobra.Command{
		Use: "set KEY=VALUE...", Short: "Change settings of the retry policy",
		Long: `Change settings of the retry policy; requests that begin later use them. The keys are those of [retry]
in koanf.toml. null clears timeout and failover_delay.`,
		Example: "  whirlpool policy set max_attempts=5 timeout=20\n" +
			"  whirlpool policy set retry_status_codes=429,502,503",
		ValidArgsFunction: completePolicy,
	}
	cmd.Flags().BoolVar(&noPersist, "no-persist", false, "do not record the change: it ends with the process")
	return gatewayCommand(cmd, func(r *remote, args []string) error {
		change, err := policySettings(args)
		if err != nil {
			return err
		}
		change["persist"] = !noPersist
		return r.putPolicy(change)
	})
}

// policySettings parses settings of a retry policy, each KEY=VALUE.
func policySettings(list []string) (map[string]any, error) {
	settings := map[string]any{}
	for _, text := range list {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, usageErrorf("%q must be KEY=VALUE", text)
		}
		settings[key] = policyValue(key, value)
	}
	return settings, nil
}

// policyValue converts the value of a setting to JSON. A text that is valid JSON, such as a number, true, null or a
// list, does not change. Any other text becomes a JSON string.
func policyValue(key, text string) any {
	if key == "retry_status_codes" && !strings.HasPrefix(text, "[") {
		text = "[" + text + "]"
	}
	if json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	return text
}

func (r *remote) putPolicy(change any) error {
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	var raw json.RawMessage
	q := request{method: http.MethodPut, path: policyPath, body: body}
	if _, err := r.send(q, &raw); err != nil {
		return err
	}
	return r.showFields(raw)
}

func resetPolicyCommand() *cobra.Command {
	return gatewayCommand(&cobra.Command{Use: "reset", Short: "Go back to the retry policy of the configuration"},
		func(r *remote, _ []string) error {
			var raw json.RawMessage
			status, err := r.send(request{method: http.MethodDelete, path: policyPath}, &raw)
			if status == http.StatusMethodNotAllowed { // the policy of the configuration is already in force
				err = r.get(policyPath, &raw)
			}
			if err != nil {
				return err
			}
			return r.showFields(raw)
		})
}

// showFields prints the fields of a JSON object as a table, or the object as JSON if --json is set.
func (r *remote) showFields(raw json.RawMessage) error {
	fields, err := orderedFields(raw)
	if err != nil {
		return err
	}
	return r.print(raw, func(w io.Writer) {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, f := range fields {
			fmt.Fprintf(t, "%s\t%s\n", f.key, strings.Trim(string(f.value), `"`))
		}
		t.Flush() // Flush fails only if a write to the output fails
	})
}

type field struct {
	key   string
	value json.RawMessage
}

// orderedFields returns the fields of a JSON object in the order in which raw has them.
func orderedFields(raw json.RawMessage) ([]field, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	var fields []field
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		f := field{key: fmt.Sprint(key)}
		if err := d.Decode(&f.value); err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	return fields, nil
}

func reloadCommand() *cobra.Command {
	return gatewayCommand(&cobra.Command{
		Use: "reload", Short: "Make a running gateway read its configuration again",
		Long: `Make a running gateway read its configuration again and print the faults, as config check does. A faulty
configuration changes nothing, and the exit code is 1.`,
	}, func(r *remote, _ []string) error {
		s, err := r.reload()
		if err != nil {
			return err
		}
		return r.print(s.raw, func(w io.Writer) {
			fmt.Fprintln(w, "the configuration is in force")
			if len(s.Restart) > 0 {
				fmt.Fprintf(w, "these changes take effect at the next start: %s\n", strings.Join(s.Restart, ", "))
			}
		})
	})
}

// reloadResult is the response to POST /config/reload.
type reloadResult struct {
	raw     json.RawMessage
	Restart []string
	Faults  []json.RawMessage
}

// reload makes the gateway read its configuration again. If the configuration has faults, the error lists them, one
// per line.
func (r *remote) reload() (s reloadResult, err error) {
	if _, err := r.send(request{method: http.MethodPost, path: "/config/reload"}, &s.raw); err != nil {
		return s, withFaults(err)
	}
	return s, json.Unmarshal(s.raw, &s)
}

// withFaults adds the faults in the details of an API error to the text of the error.
func withFaults(err error) error {
	var failed *client.Error
	if !errors.As(err, &failed) {
		return err
	}
	var details struct{ Faults []json.RawMessage }
	if json.Unmarshal(failed.Details, &details) != nil {
		return err
	}
	for _, raw := range details.Faults {
		err = fmt.Errorf("%w\n%s", err, faultText(raw))
	}
	return err
}
