package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

func drainCommand() *cobra.Command {
	return forEachProxy(&cobra.Command{
		Use: "drain [ID...]", Short: "Remove proxies after their attempts in flight have ended",
		Long: `Remove proxies: they get no new requests, and leave the pool when their attempts in flight have ended.
undrain brings a proxy of the configuration back.`,
	}, func(r *remote, id string) (string, error) {
		_, err := r.send(request{method: http.MethodDelete, path: proxyPath(id) + "?drain=true"}, nil)
		return "is draining", err
	})
}

func undrainCommand() *cobra.Command {
	return forEachID(&cobra.Command{
		Use: "undrain ID...", Short: "Bring back proxies of the configuration that drain or delete has removed",
		Long: `Bring back proxies of the configuration that drain or delete has removed: the recorded removal is
deleted, and the configuration is read again. Other changes of the file take effect, too. A proxy that add
has added is not in the configuration; add it again.`,
	}, func(r *remote, id string) (string, error) {
		key := url.Values{"key": {"proxy/" + id}}
		status, err := r.send(request{method: http.MethodDelete, path: "/state?" + key.Encode()}, nil)
		if err != nil && status != http.StatusNotFound { // not found: the API has no record of the removal
			return "", err
		}
		if _, err := r.reload(); err != nil {
			return "", err
		}
		var p proxyRow
		if status, err := r.send(request{method: http.MethodGet, path: proxyPath(id)}, &p); err != nil {
			if status == http.StatusNotFound {
				return "", fmt.Errorf("the configuration has no proxy %q; add it again: whirlpool proxies add", id)
			}
			return "", err
		}
		if p.Draining {
			return "", fmt.Errorf("the configuration has no proxy %q, so it goes on draining", id)
		}
		return "is in the pool again", nil
	})
}

func banCommand() *cobra.Command {
	var duration time.Duration
	host := ""
	cmd := &cobra.Command{
		Use: "ban [ID...]", Short: "Exclude proxies for a time, from all requests or from those for one host",
		Example: "  whirlpool proxies ban p1 p2 --for 1h\n  whirlpool proxies ban p1 --host shop.example\n" +
			"  whirlpool proxies ban --reason \"403 at shop.example\" # all that fail so, as in whirlpool status",
	}
	cmd.Flags().DurationVar(&duration, "for", 10*time.Minute, "`TIME` of the ban: 1s to 720h, with --host 1s to 24h")
	cmd.Flags().StringVar(&host, "host", "", "ban for requests to this `HOST` only")
	return forEachProxy(cmd, func(r *remote, id string) (string, error) {
		in := map[string]string{"for": duration.String()}
		if host != "" {
			in["host"] = host
		}
		body, err := json.Marshal(in)
		if err != nil {
			return "", err
		}
		var ban struct{ Until time.Time }
		_, err = r.send(request{method: http.MethodPost, path: proxyPath(id) + "/ban", body: body},
			&ban)
		return "is banned" + hostSuffix(host) + " until " + ban.Until.Local().Format(time.DateTime), err
	})
}

func hostSuffix(host string) string {
	if host == "" {
		return ""
	}
	return " for " + host
}

func unbanCommand() *cobra.Command {
	host := ""
	cmd := &cobra.Command{Use: "unban [ID...]", Short: "End the ban of proxies, or their rest for one host"}
	cmd.Flags().StringVar(&host, "host", "", "end the ban for this `HOST` only")
	return forEachProxy(cmd, func(r *remote, id string) (string, error) {
		path := proxyPath(id) + "/ban"
		if host != "" {
			path += "?" + url.Values{"host": {host}}.Encode()
		}
		_, err := r.send(request{method: http.MethodDelete, path: path}, nil)
		return "is not banned any more" + hostSuffix(host), err
	})
}

func resetCommand() *cobra.Command {
	return forEachProxy(&cobra.Command{Use: "reset [ID...]", Short: "Close the circuit breakers of proxies"},
		func(r *remote, id string) (string, error) {
			path := "/circuit-breakers/" + url.PathEscape(id) + "/reset"
			_, err := r.send(request{method: http.MethodPost, path: path}, nil)
			return "has a closed breaker", err
		})
}

func deleteCommand() *cobra.Command {
	return forEachProxy(&cobra.Command{
		Use: "delete [ID...]", Short: "Remove proxies at once; their attempts in flight are completed",
	}, func(r *remote, id string) (string, error) {
		_, err := r.send(request{method: http.MethodDelete, path: proxyPath(id)}, nil)
		return "is deleted", err
	})
}

func restoreCommand() *cobra.Command {
	return forEachID(&cobra.Command{
		Use: "restore ID...", Short: "Undo drain or delete within ten minutes",
		Long: `Undo drain or delete within ten minutes: the proxies have their ids and settings again, also their
passwords, with new circuit breakers and new statistics.`,
	}, func(r *remote, id string) (string, error) {
		_, err := r.send(request{method: http.MethodPost, path: proxyPath(id) + "/restore"}, nil)
		return "is in the pool again", err
	})
}
