package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/api"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
)

// routeCommand returns the command route, which shows the rules that are applied to a request, and the reasons.
func routeCommand() *cobra.Command {
	var method, user, file string
	cmd := gatewayCommand(&cobra.Command{
		Use: "route URL", Short: "Show which rules are applied to a request, and why",
		Long: `Show which [[rules]] are applied to a request for a URL, and each condition that
does not hold. The rules are those of the running gateway or, with --config,
those of a file. No request is sent.

An https:// URL, or HOST:PORT, is a tunnel (CONNECT or SOCKS5), whose path is
encrypted. With --method it is a request that the gateway can read: in absolute
form, by POST /request, or in an intercepted tunnel.`,
		Example: "  whirlpool route https://shop.example/\n" +
			"  whirlpool route --method POST --user crawler http://shop.example/cart\n" +
			"  whirlpool route --config koanf.toml shop.example:443",
		Args: cobra.ExactArgs(1),
	}, func(r *remote, args []string) error {
		var v api.RouteView
		var err error
		if file != "" {
			v, err = routeOfFile(file, args[0], method, user)
		} else {
			q := url.Values{"url": {args[0]}}
			for name, value := range map[string]string{"method": method, "user": user} {
				if value != "" {
					q.Set(name, value)
				}
			}
			_, err = r.send(request{method: "GET", path: "/route?" + q.Encode()}, &v)
		}
		if err != nil {
			return err
		}
		return r.print(v, func(w io.Writer) { printRoute(w, &v) })
	})
	cmd.Flags().StringVar(&method, "method", "", "`METHOD` of the request, such as GET")
	completeWords(cmd, "method", methods)
	cmd.Flags().StringVar(&user, "user", "", "`NAME` of the user who sends the request")
	cmd.Flags().StringVar(&file, "config", "", "`FILE` with the rules, in place of the running gateway")
	return cmd
}

// routeOfFile returns the route of a request under the rules of a configuration file.
func routeOfFile(file, target, method, user string) (v api.RouteView, err error) {
	q, err := api.RouteRequest(target, method, user)
	if err != nil {
		return v, usageError{err}
	}
	cfg, err := config.Load(config.Source{File: file, Environ: os.Environ(), Once: true})
	if err != nil {
		return v, err
	}
	engineConfig := cfg.Engine()
	set, err := rules.Compile(engineConfig.Rules, nil)
	if err != nil {
		return v, err
	}
	return api.RouteOf(set, q, &engineConfig.Retry, engineConfig.FirstScorer), nil
}

func printRoute(w io.Writer, v *api.RouteView) {
	fmt.Fprintf(w, "%s %s\n\n", v.Request.Method, targetText(&v.Request))
	labels := map[string]string{} // label of the applied rule, by the kind of its action
	for _, r := range v.Rules {
		for _, kind := range r.Applied {
			labels[kind] = " (" + r.Label + ")"
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "way\t%s%s\n", routeText(v), labels["way"])
	if v.Way != "deny" {
		fmt.Fprintf(t, "policy\t%s%s\n", policyText(v), labels["policy"])
		if v.Way != "direct" {
			fmt.Fprintf(t, "scorer\t%s%s\n", v.Scorer, labels["scorer"])
		}
		if v.Intercept {
			fmt.Fprintf(t, "intercept\tyes%s; --method GET shows the way of a request in the tunnel\n",
				labels["intercept"])
		}
		if v.Interim {
			fmt.Fprintf(t, "interim\tyes%s\n", labels["interim"])
		}
	}
	t.Flush()
	if len(v.Rules) == 0 {
		fmt.Fprintln(w, "\nThere are no rules.")
		return
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RULE\tAPPLIED\tWHY")
	for i := range v.Rules {
		r := &v.Rules[i]
		fmt.Fprintf(t, "%s\t%s\t%s\n", r.Label, appliedText(r), reasonText(r, v.Request.Method == http.MethodConnect))
	}
	t.Flush()
}

// targetText returns the target of the request as text, followed by the user if the request has one.
func targetText(q *api.RouteRequestView) string {
	place := fmt.Sprintf("%s:%d", q.Host, q.Port)
	if strings.Contains(q.Host, ":") {
		place = fmt.Sprintf("[%s]:%d", q.Host, q.Port)
	}
	place += q.Path
	if q.User != "" {
		place += " by " + q.User
	}
	return place
}

func routeText(v *api.RouteView) string {
	switch v.Way {
	case "direct":
		return "direct, without a proxy"
	case "deny":
		return "denied: 403 denied_by_rule"
	}
	limits := []string{}
	if v.Tag != "" {
		limits = append(limits, "with the tag "+v.Tag)
	}
	if v.Region != "" {
		limits = append(limits, "of the region "+v.Region)
	}
	switch {
	case len(limits) == 0:
		return "all proxies"
	case v.Prefer:
		return "preferably proxies " + strings.Join(limits, " and ")
	}
	return "only proxies " + strings.Join(limits, " and ")
}

func policyText(v *api.RouteView) string {
	p := &v.Policy
	s := fmt.Sprintf("max_attempts %d, %s from %g s", p.MaxAttempts, p.BackoffStrategy, p.BaseDelay)
	if p.Timeout != nil {
		s += fmt.Sprintf(", timeout %g s", *p.Timeout)
	}
	if v.AttemptTimeout > 0 {
		s += fmt.Sprintf(", attempt_timeout %g s", v.AttemptTimeout)
	}
	return s
}

func appliedText(r *api.RouteRule) string {
	switch {
	case len(r.Applied) > 0:
		return strings.Join(r.Applied, ", ")
	case r.Holds && r.Kind == "response":
		return "perhaps"
	}
	return "no"
}

// reasonText returns the reason why the rule is applied or is not applied to a tunnel or to another request.
func reasonText(r *api.RouteRule, isTunnel bool) string {
	var notHolding, holding []string
	for _, c := range r.Conditions {
		want := strings.Join(c.Want, ", ")
		switch {
		case c.Holds:
			holding = append(holding, c.Key+" "+want)
		case c.Got == "" && c.Key == "path":
			notHolding = append(notHolding, "path "+want+": the path is encrypted in the tunnel")
		case c.Got == "":
			notHolding = append(notHolding, c.Key+" "+want+": the request has none")
		default:
			notHolding = append(notHolding, c.Key+" "+want+": it is "+c.Got)
		}
	}
	switch {
	case len(notHolding) > 0:
		return strings.Join(notHolding, "; ")
	case r.Kind == "response":
		return "depends on the response" + keyList(r.Pending)
	case len(r.Applied) == 0 && isTunnel:
		return "an earlier rule decides"
	case len(r.Applied) == 0:
		return "an earlier rule decides, or it intercepts tunnels"
	}
	return strings.Join(holding, "; ")
}

func keyList(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	return ": " + strings.Join(keys, ", ")
}
