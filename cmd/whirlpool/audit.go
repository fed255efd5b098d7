package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// auditCommand returns the command audit, which lists the changes through the API of a running gateway or of its
// cluster.
func auditCommand() *cobra.Command {
	text, limit := "", 20
	cmd := &cobra.Command{
		Use: "audit", Short: "List who changed what through the API, on all nodes of a cluster",
		Example: "  whirlpool audit\n  whirlpool audit --find p7\n  whirlpool audit --limit 1000 --json",
	}
	cmd.Flags().StringVar(&text, "find", "", "only changes that contain `TEXT`: a node, key, path or changed thing")
	cmd.Flags().IntVar(&limit, "limit", limit, "`NUMBER` of changes, 1 to 1000")
	return gatewayCommand(cmd, func(r *remote, _ []string) error {
		if limit < 1 || limit > 1000 {
			return usageErrorf("--limit must be 1 to 1000")
		}
		query := url.Values{"limit": {strconv.Itoa(limit)}}
		if text != "" {
			query.Set("q", text)
		}
		var raw json.RawMessage
		if err := r.get("/audit?"+query.Encode(), &raw); err != nil {
			return err
		}
		var page client.AuditPage
		if err := json.Unmarshal(raw, &page); err != nil {
			return err
		}
		return r.print(raw, func(w io.Writer) {
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "TIME\tNODE\tKEY\tCHANGE")
			for i := range page.Changes {
				e := &page.Changes[i]
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", e.At.Local().Format(time.DateTime), cmp.Or(e.Node, "-"),
					cmp.Or(e.Key, "-"), changeText(e))
			}
			t.Flush() // Flush fails only if a write to the output fails
		})
	})
}

// changeText returns the request of an entry, and the things that it has changed.
func changeText(e *client.AuditEntry) string {
	text := e.Method + " " + strings.TrimPrefix(e.Path, "/api/v1")
	if e.Query != "" {
		text += "?" + e.Query
	}
	if len(e.Changed) > 0 {
		text += " " + strings.Join(e.Changed, ", ")
	}
	if more := e.Total - len(e.Changed); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
