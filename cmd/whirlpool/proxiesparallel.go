package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

// forEachProxy makes cmd call the function change for each of its arguments, which are ids of proxies, or for each
// proxy that its flags select. The result of change is a text, such as "is draining". If a call fails, the command
// makes the remaining calls, and fails at the end.
func forEachProxy(cmd *cobra.Command, change func(r *remote, id string) (result string, err error)) *cobra.Command {
	return changeProxies(cmd, 1, addSelection(cmd), change)
}

// forEachID is like forEachProxy, without flags that select proxies.
func forEachID(cmd *cobra.Command, change func(r *remote, id string) (result string, err error)) *cobra.Command {
	given := func(_ *remote, ids []string) ([]string, error) { return ids, nil }
	return changeProxies(cmd, 1, given, change)
}

// selection returns the ids of the proxies that a command changes. Its parameter ids are the arguments of the command.
type selection func(r *remote, ids []string) ([]string, error)

// addSelection adds to cmd the flags that select proxies.
func addSelection(cmd *cobra.Command) selection {
	f := proxyFilter{sort: "id"}
	none := f
	f.addFlags(cmd)
	return func(r *remote, ids []string) ([]string, error) {
		switch hasFlags := f != none; {
		case hasFlags && len(ids) > 0:
			return nil, usageErrorf("give ids or flags that select proxies, not both")
		case !hasFlags && len(ids) == 0:
			return nil, usageErrorf("proxies %s: ID is missing, or a flag such as --reason; see %s --help", cmd.Name(),
				cmd.CommandPath())
		case !hasFlags:
			return ids, nil
		}
		if err := f.check(); err != nil {
			return nil, err
		}
		rows, _, err := f.readRows(r)
		if err != nil {
			return nil, err
		}
		if len(rows) == 0 {
			return nil, errors.New("the flags select no proxy")
		}
		for _, p := range rows {
			ids = append(ids, p.ID)
		}
		return ids, nil
	}
}

// outcome holds the results of one call of the function change of changeProxies.
type outcome struct {
	text string
	err  error
}

// changeProxies is like forEachProxy, but up to the given number of calls run at the same time. The results are
// printed in the order of the arguments.
func changeProxies(
	cmd *cobra.Command, parallel int, selected selection, change func(r *remote, id string) (done string, err error),
) *cobra.Command {
	cmd.ValidArgsFunction = completeProxies
	return gatewayCommand(cmd, func(r *remote, arguments []string) error {
		ids, err := selected(r, arguments)
		if err != nil {
			return err
		}
		type result struct {
			ProxyID string `json:"proxy_id"`
			Done    string `json:"done,omitempty"`
			Error   string `json:"error,omitempty"`
		}
		results, failedCount := make([]result, len(ids)), 0
		var lastErr error
		var called atomic.Int64
		outcomes := callInOrder(ids, parallel, func(id string) outcome {
			defer called.Add(1)
			done, err := change(r, id)
			return outcome{done, err}
		})
		live := parallel > 1 && len(ids) > 1 && isTerminal(cmd.ErrOrStderr())
		for i, id := range ids {
			results[i].ProxyID = id
			o := waitLive(outcomes[i], live, cmd.ErrOrStderr(), func() string {
				return fmt.Sprintf("%d of %d", called.Load(), len(ids))
			})
			switch {
			case o.err != nil:
				results[i].Error, lastErr = o.err.Error(), o.err
				failedCount++
				if len(ids) > 1 && !r.asJSON {
					r.printNote("%s: %s", id, o.err)
				}
			default:
				results[i].Done = o.text
				if !r.asJSON {
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", id, o.text)
				}
			}
		}
		if len(ids) == 1 && failedCount == 1 {
			return lastErr
		}
		err = r.print(map[string]any{"results": results}, func(io.Writer) {})
		if err == nil && failedCount > 0 {
			err = fmt.Errorf("%d of %d proxies failed", failedCount, len(ids))
		}
		return err
	})
}

func proxyPath(id string) string { return "/proxies/" + url.PathEscape(id) }

// callInOrder calls the given function for each id. The parameter parallel is the maximum number of calls at the same
// time. The result has a channel for each id, in the order of ids, which receives the outcome of the call.
func callInOrder(ids []string, parallel int, call func(id string) outcome) []chan outcome {
	outcomes := make([]chan outcome, len(ids))
	for i := range outcomes {
		outcomes[i] = make(chan outcome, 1)
	}
	var next atomic.Int64
	for range min(parallel, len(ids)) {
		go func() {
			for i := next.Add(1) - 1; i < int64(len(ids)); i = next.Add(1) - 1 {
				outcomes[i] <- call(ids[i])
			}
		}()
	}
	return outcomes
}

// waitLive waits for an outcome. If live is set, waitLive shows the progress on the terminal w during the wait.
func waitLive(arrived <-chan outcome, live bool, w io.Writer, progress func() string) outcome {
	if !live {
		return <-arrived
	}
	defer fmt.Fprint(w, "\r\x1b[K")
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case o := <-arrived:
			return o
		case <-tick.C:
			fmt.Fprintf(w, "\r%s ", progress())
		}
	}
}
