package main

import (
	"cmp"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

var groupFields = []string{"region", "vendor", "reason", "state"}

// proxyGroup is a group in the response to GET /proxy-groups. It has only the fields that the command shows.
type proxyGroup struct {
	Name    string `json:"name"`
	Proxies int    `json:"proxies"`
	Failing int    `json:"failing"`
	Banned  int    `json:"banned"`
	Reason  string `json:"reason"`
}

func groupsCommand() *cobra.Command {
	groupBy := groupFields[0]
	cmd := &cobra.Command{
		Use: "groups", Short: "Count the proxies and the failing ones by region, vendor, reason or state",
		Example: "  whirlpool proxies groups --by vendor",
	}
	cmd.Flags().StringVar(&groupBy, "by", groupBy,
		"`FIELD` whose values name the groups: "+strings.Join(groupFields, ", "))
	completeWords(cmd, "by", groupFields)
	return gatewayCommand(cmd, func(r *remote, _ []string) error {
		if err := checkWord("--by", groupBy, groupFields); err != nil {
			return err
		}
		var list struct {
			Groups []proxyGroup `json:"groups"`
		}
		if err := r.get("/proxy-groups?"+url.Values{"by": {groupBy}}.Encode(), &list); err != nil {
			return err
		}
		return r.print(list, func(w io.Writer) {
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintf(t, "%s\tPROXIES\tFAILING\tBANNED\tMOST FAIL WITH\n", strings.ToUpper(groupBy))
			for _, g := range list.Groups {
				fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\n", cmp.Or(g.Name, "-"), g.Proxies, g.Failing, g.Banned,
					cmp.Or(g.Reason, "-"))
			}
			t.Flush() // Flush fails only if a write to the output fails
		})
	})
}

// groupNames returns the values that the gateway's proxies have in one of the groupFields.
func (r *remote) groupNames(by string) (names []string, err error) {
	var list struct{ Groups []proxyGroup }
	if err := r.get("/proxy-groups?"+url.Values{"by": {by}}.Encode(), &list); err != nil {
		return nil, err
	}
	for _, g := range list.Groups {
		if g.Name != "" {
			names = append(names, g.Name)
		}
	}
	return names, nil
}

// checkRegion returns an error if no proxy has the region. The error lists the regions of the proxies. If these cannot
// be read, checkRegion returns nil.
func (r *remote) checkRegion(region string) error {
	names, err := r.groupNames("region")
	isRegion := func(name string) bool { return strings.EqualFold(name, region) }
	switch {
	case err != nil || slices.ContainsFunc(names, isRegion):
		return nil
	case len(names) == 0:
		return fmt.Errorf("--region %q: no proxy has a region", region)
	}
	return fmt.Errorf("--region %q: no proxy has this region; the regions are %s%s", region,
		strings.Join(names[:min(len(names), maxRegions)], ", "), strict.DidYouMean(region, names))
}

// maxRegions is the maximum number of regions that an error lists.
const maxRegions = 20
