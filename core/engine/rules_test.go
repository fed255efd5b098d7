package engine_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/retry"
	"github.com/whirlpool-proxy/whirlpool/core/rules"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// someScorers is rotation without the scorer gone.
type someScorers struct{ rotation }

func (s someScorers) Scorer(name, fallback string) (core.Scorer, error) {
	if name == "gone" {
		return nil, errors.New("there is no scorer gone")
	}
	return s.rotation.Scorer(name, fallback)
}

func routing(host string, r rules.Routing) rules.Rule {
	return rules.Rule{When: rules.Conditions{Hosts: []string{host}}, Then: rules.Actions{Routing: r}}
}

// Rules choose the way of the requests of a Go program. A reload changes them and keeps their counts. A scorer that
// does not exist is an error.
func TestRulesChooseTheWay(t *testing.T) {
	e, _ := through(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	five, two := 5, 0.1
	cfg := *e.Config()
	cfg.Breaker.FailureThreshold = 1000
	cfg.Proxies = slices.Clone(cfg.Proxies)
	cfg.Proxies[0].Tags = []string{"a"}
	cfg.Rules = []rules.Rule{
		{Name: "no", When: rules.Conditions{Hosts: []string{"deny.test"}, Paths: []string{"/x*"}},
			Then: rules.Actions{Routing: rules.Routing{Deny: true}}},
		routing("none.test", rules.Routing{Tag: "none"}),
		routing("*.tag.test", rules.Routing{Tag: "a", Policy: &rules.Policy{Override: retry.Override{MaxAttempts: &five,
			BaseDelay: &two}}}),
		routing("*", rules.Routing{Scorer: "own"}),
	}
	require.NoError(t, e.Reload(cfg, someScorers{}))
	send := func(url string, header ...string) (*http.Response, error) {
		q := get(t, url)
		for i := 0; i+1 < len(header); i += 2 {
			q.Header.Set(header[i], header[i+1])
		}
		return e.Transport().RoundTrip(q)
	}
	var failed *engine.Error
	_, err := send("http://deny.test/x/y")
	require.ErrorAs(t, err, &failed)
	require.Equal(t, core.FinalDeniedByRule, failed.Final)
	require.Equal(t, 403, failed.Failure.Status)
	require.Equal(t, "denied_by_rule", failed.Failure.Code)
	require.Contains(t, failed.Failure.Message, "the rule no denies")
	_, err = send("http://none.test/")
	require.ErrorAs(t, err, &failed)
	require.Equal(t, core.FinalNoProxyWithTag, failed.Final)
	for url, attempts := range map[string]string{"http://deny.test/": "3", "http://x.tag.test/": "5"} {
		r, err := send(url)
		require.NoError(t, err)
		require.Equal(t, attempts, r.Header.Get("X-Whirlpool-Attempts"), url)
		r.Body.Close()
	}
	r, err := send("http://x.tag.test/", "X-Whirlpool-Retry", "max_attempts=4")
	require.NoError(t, err)
	require.Equal(t, "4", r.Header.Get("X-Whirlpool-Attempts"), "the request changes the policy of the rule")
	r.Body.Close()
	_, err = send("http://x.tag.test/", "X-Whirlpool-Retry", "max_attempts=11")
	require.ErrorContains(t, err, "max_attempts")
	require.Equal(t, []rules.Count{{Label: "no", N: 1}, {Label: "rules[1]", N: 1}, {Label: "rules[2]", N: 2},
		{Label: "rules[3]", N: 5}}, e.Rules().Counts())

	bad := cfg
	bad.Rules = []rules.Rule{routing("*", rules.Routing{Scorer: "gone"}), routing("*", rules.Routing{})}
	err = e.Reload(bad, someScorers{})
	require.ErrorContains(t, err, "rules[0].then.scorer: there is no scorer gone")
	require.ErrorContains(t, err, "rules[1].then: has no action")
	cfg.Rules = cfg.Rules[:1]
	require.NoError(t, e.Reload(cfg, someScorers{}))
	require.NoError(t, e.Activate("other", ""))
	require.Equal(t, []rules.Count{{Label: "no", N: 1}}, e.Rules().Counts(), "after a reload and an activation")
	require.True(t, e.Rules().HasRoutingRules())
}

// An API client's request goes out directly by a rule, and package egress denies addresses of this machine.
func TestADirectRule(t *testing.T) {
	e, _ := through(t, echo)
	cfg := *e.Config()
	cfg.Rules = []rules.Rule{routing("127.0.0.1", rules.Routing{Direct: true})}
	require.NoError(t, e.Reload(cfg, rotation{}))
	result, err := e.Do(context.Background(), engine.Call{Request: get(t, "http://127.0.0.1:9/")})
	require.NoError(t, err)
	require.Equal(t, core.FinalEgressDenied, result.Final)
	require.Equal(t, 403, result.Failure.Status)
	require.Equal(t, upstream.DirectID, result.Attempts[0].ProxyID)
}
