package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// stateCommand returns the command state, which lists and deletes the recorded changes of a running gateway.
func stateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "state", Short: "Work with the changes by the API that are kept over a restart"}
	cmd.AddCommand(showStateCommand(), clearStateCommand())
	return cmd
}

func showStateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "List the recorded changes of a gateway"}
	return gatewayCommand(cmd, func(r *remote, _ []string) error {
		var raw json.RawMessage
		if _, err := r.send(request{method: "GET", path: "/state"}, &raw); err != nil {
			return err
		}
		var list struct {
			Kept    bool   `json:"kept"`
			Dir     string `json:"dir"`
			Changes []struct {
				Key     string    `json:"key"`
				Change  string    `json:"change"`
				At      time.Time `json:"at"`
				InForce bool      `json:"in_force"`
			} `json:"changes"`
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
		return r.print(raw, func(w io.Writer) {
			if !list.Kept {
				fmt.Fprintln(w, "no state folder: changes by the API last until the restart")
				return
			}
			fmt.Fprintf(w, "%s in %s\n", plural(len(list.Changes), "change"), list.Dir)
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			for _, c := range list.Changes {
				note := ""
				if !c.InForce {
					note = "not in force: not in the configuration now, or named as an error in the log of the start"
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.At.Format(time.RFC3339), c.Change, c.Key, note)
			}
			t.Flush() // Flush fails only if a write to the output fails
		})
	})
}

func clearStateCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use: "clear", Short: "Delete the record of one change (--key), or of all",
		Long: `Delete the record of one change, or of all. What is in force stays until the next
start or, for proxies of the configuration, until the next reload.`,
	}
	cmd.Flags().StringVar(&key, "key", "", "`KEY` of the change, as show lists it")
	return gatewayCommand(cmd, func(r *remote, _ []string) error {
		path := "/state"
		if key != "" {
			path += "?" + url.Values{"key": {key}}.Encode()
		}
		if _, err := r.send(request{method: "DELETE", path: path}, nil); err != nil {
			return err
		}
		return r.print(json.RawMessage("{}"), func(w io.Writer) { fmt.Fprintln(w, "forgotten") })
	})
}
