package engine_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/engine"
)

// withJudge is a set of plugins with a judge "strict", which rules each 403 as a ban.
type withJudge struct{ rotation }

func (withJudge) Judge(name string) (core.Judge, error) {
	if name != "strict" {
		return nil, errors.New("there is no such judge")
	}
	return strict{}, nil
}

type strict struct{}

func (strict) ExcerptSpec() *core.ExcerptSpec { return &core.ExcerptSpec{} }

func (strict) Rule(r *core.JudgeRequest, _ *core.Excerpt) (core.Ruling, error) {
	if r.Status == http.StatusForbidden {
		return core.Ruling{Kind: core.RulingBanned, BanTime: time.Hour}, nil
	}
	return core.Ruling{}, nil
}

// A reload changes the judge. An activated judge stays until the Config names another one. The name of a
// judge must exist.
func TestTheJudgeOfAnEngine(t *testing.T) {
	var log bytes.Buffer
	cfg := engine.DefaultConfig()
	plugins := withJudge{}
	e, err := engine.New(cfg, engine.Options{Plugins: plugins, Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer e.Shutdown(context.Background())
	require.Equal(t, engine.NoJudge, e.Judge())

	var bad *core.KeyError
	require.ErrorAs(t, e.ActivateJudge("nope"), &bad)
	require.Equal(t, "selection.judge", bad.Key)
	require.Equal(t, engine.NoJudge, e.Judge())
	require.NoError(t, e.ActivateJudge("strict"))
	require.NoError(t, e.Reload(cfg, plugins))
	require.Equal(t, "strict", e.Judge(), "an activated judge stays")
	require.NoError(t, e.Reload(cfg, rotation{}))
	require.Equal(t, engine.NoJudge, e.Judge())
	require.Contains(t, log.String(), `msg="a plugin in use has been removed" for=judge plugin=strict now=none`)

	cfg.Judge = "strict"
	require.NoError(t, e.Reload(cfg, plugins))
	require.Equal(t, "strict", e.Judge())
	cfg.Judge = ""
	require.NoError(t, e.Reload(cfg, plugins))
	require.Equal(t, engine.NoJudge, e.Judge())
	cfg.Judge = "nope"
	require.ErrorAs(t, e.Reload(cfg, plugins), &bad)
	require.ErrorAs(t, engine.Check(cfg, rotation{}), &bad)
	require.ErrorContains(t, bad, "these plugins have no judges")
}
