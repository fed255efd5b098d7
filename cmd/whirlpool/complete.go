package main

import (
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/sdk/client"
)

// The functions in this file complete words on the command line of a shell (whirlpool completion --help).

// completionTimeout is the maximum time for which a completion waits for the gateway.
const completionTimeout = 2 * time.Second

// completeWords makes the shell complete the value of a flag to one of the given words.
func completeWords(cmd *cobra.Command, flag string, words []string) {
	// RegisterFlagCompletionFunc fails only if the flag does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// completeList makes the shell complete the value of a flag to some of the given words, separated by commas.
func completeList(cmd *cobra.Command, flag string, words []string) {
	complete := func(_ *cobra.Command, _ []string, toComplete string) (lists []string, _ cobra.ShellCompDirective) {
		before := toComplete[:strings.LastIndexByte(toComplete, ',')+1]
		for _, word := range words {
			if !slices.Contains(strings.Split(before, ","), word) {
				lists = append(lists, before+word)
			}
		}
		return lists, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
	_ = cmd.RegisterFlagCompletionFunc(flag, complete)
}

// completion is the type of cobra.Command.ValidArgsFunction. The parameter toComplete is the part of a word that the
// user has typed.
type completion = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// completeFrom returns a completion. It calls the function list. Of the returned words, it offers the words that begin
// with the typed text and are not arguments yet. After an error it offers no words, because it cannot show the error.
func completeFrom(list func(r *remote) []string) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		r := &remote{cmd: cmd}
		r.url, r.keyFile = cmd.Flag("url").Value.String(), cmd.Flag("key-file").Value.String()
		cmd.SetErr(io.Discard)
		if r.open() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		r.api.HTTP.Timeout = completionTimeout
		var words []string
		for _, word := range list(r) {
			if strings.HasPrefix(word, toComplete) && !slices.Contains(args, word) {
				words = append(words, word)
			}
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// maxCompletions is the maximum number of proxies that a completion reads from the API.
const maxCompletions = 1000

func completeProxies(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return completeFrom(func(r *remote) (ids []string) {
		page, err := r.api.Proxies(r.context(), client.List{Text: toComplete, Limit: maxCompletions})
		if err != nil {
			return nil
		}
		for _, p := range page.Proxies {
			ids = append(ids, p.ID)
		}
		return ids
	})(cmd, args, toComplete)
}

// completePlugins returns a completion for commands whose first argument is the name of a plugin. For the second
// argument, the completion offers the words in the parameter secondArguments.
func completePlugins(secondArguments ...string) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 1 && len(secondArguments) > 0 {
			return secondArguments, cobra.ShellCompDirectiveNoFileComp
		}
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return completeFrom(func(r *remote) (names []string) {
			var list struct{ Plugins []struct{ Name string } }
			if r.get("/plugins", &list) != nil {
				return nil
			}
			for _, p := range list.Plugins {
				names = append(names, p.Name)
			}
			return names
		})(cmd, args, toComplete)
	}
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// completeGroups makes the shell complete the value of a flag, such as --region. It offers the values of the proxies'
// field with the flag's name (groupFields).
func completeGroups(cmd *cobra.Command, flag string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, completeFrom(func(r *remote) []string {
		names, _ := r.groupNames(flag) // without the names, the completion offers no words
		return names
	}))
}

// completePolicy is a completion that offers the keys of the retry policy, each with "=". After "backoff_strategy=",
// it offers the names of backoff plugins. After a key that is a switch, it offers "true" and "false". After a key that
// can be cleared, it offers "null".
func completePolicy(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	key, _, typesValue := strings.Cut(toComplete, "=")
	switch {
	case typesValue && key == "backoff_strategy":
		return completeFrom((*remote).backoffValues)(cmd, nil, toComplete)
	case typesValue:
		return completeFrom(func(r *remote) (words []string) {
			if _, isSwitch := r.policyFields()[key].(bool); isSwitch {
				return []string{key + "=false", key + "=true"}
			}
			if key == "timeout" || key == "failover_delay" {
				return []string{key + "=null"}
			}
			return nil
		})(cmd, nil, toComplete)
	}
	words, directive := completeFrom(func(r *remote) (keys []string) {
		for key := range r.policyFields() {
			if !hasKey(args, key) {
				keys = append(keys, key+"=")
			}
		}
		slices.Sort(keys)
		return keys
	})(cmd, nil, toComplete)
	return words, directive | cobra.ShellCompDirectiveNoSpace
}

// backoffValues returns "backoff_strategy=NAME" for each backoff plugin of the gateway.
func (r *remote) backoffValues() (words []string) {
	var list struct{ Plugins []struct{ Name, Kind string } }
	if r.get("/plugins", &list) != nil {
		return nil
	}
	for _, p := range list.Plugins {
		if p.Kind == "backoff" {
			words = append(words, "backoff_strategy="+p.Name)
		}
	}
	return words
}

// policyFields returns the fields of the gateway's retry policy that can be changed; nil after an error.
func (r *remote) policyFields() map[string]any {
	var policy map[string]any
	if r.get(policyPath, &policy) != nil {
		return nil
	}
	delete(policy, "source")
	delete(policy, "updated_at")
	return policy
}

// hasKey reports whether one of the arguments KEY=VALUE has the given key.
func hasKey(args []string, key string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, key+"=") })
}
