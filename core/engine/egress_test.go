package engine_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/egress"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// A reload changes the rules at once, for idle connections too.
func TestAReloadChangesEgress(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer target.Close()
	cfg := engine.DefaultConfig()
	cfg.Proxies = []upstream.Spec{{ID: "direct", Address: upstream.Address{Scheme: upstream.Direct}}}
	e, err := engine.New(cfg, engine.Options{Plugins: rotation{}})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	get := func() error {
		r, err := (&http.Client{Transport: e.Transport()}).Get(target.URL)
		if err == nil {
			r.Body.Close()
		}
		return err
	}
	for range 2 {
		for _, c := range []struct {
			egress egress.Config
			denied string
		}{
			{egress.Config{}, "loopback address"},
			{egress.Config{Allow: []string{"127.0.0.0/8"}}, ""},
			{egress.Config{Allow: []string{"127.0.0.0/8"}, Deny: []string{":1-65535"}}, "egress.deny"},
			{egress.Config{Default: "deny"}, "egress.default"},
			{egress.Config{Allow: []string{"127.0.0.1"}, Default: "deny"}, ""},
		} {
			cfg.Egress = c.egress
			require.NoError(t, e.Reload(cfg, rotation{}))
			err := get()
			if c.denied == "" {
				require.NoError(t, err, "%+v", c)
				continue
			}
			var refused *engine.Error
			require.True(t, errors.As(err, &refused), "%v", err)
			require.Equal(t, core.FinalEgressDenied, refused.Final)
			require.Equal(t, 403, refused.Failure.Status)
			require.Contains(t, refused.Failure.Message, c.denied)
			require.NotContains(t, refused.Failure.Message, "127.0.0.1:")
		}
	}
}
