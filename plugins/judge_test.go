package plugins_test

import (
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/coretest"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

func judges(t *testing.T) *plugins.Registry {
	r, err := plugins.New(plugins.Options{Limits: patient(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return r
}

// A judge whose calls fail is quarantined: it rules on no response, and asks for no part of one. A release
// ends the quarantine.
func TestQuarantineOfAJudge(t *testing.T) {
	r := judges(t)
	trapping := w.OnlyInRealCalls(0, w.Unreachable)
	_, err := r.Put("mine", w.Judge(w.Join(trapping, w.Rules(2, 0))...).Bytes(), nil, false)
	require.NoError(t, err)
	j, err := r.Judge("mine")
	require.NoError(t, err)
	rule := func(now float64) (core.Ruling, error) { return j.Rule(&core.JudgeRequest{Now: now}, &core.Excerpt{}) }
	ruling, err := rule(1)
	require.NoError(t, err)
	require.Equal(t, core.Ruling{Kind: core.RulingOtherProxy}, ruling)
	for i := range 5 {
		require.NotNil(t, j.ExcerptSpec(), "call %d", i)
		ruling, err = rule(1.8e9)
		require.Error(t, err)
		require.Equal(t, core.Ruling{}, ruling)
		rule(1)
	}
	require.Nil(t, j.ExcerptSpec(), "quarantined: five of the last fifty calls have failed")
	_, err = rule(1)
	require.ErrorContains(t, err, "quarantined")
	i, err := r.Get("mine")
	require.NoError(t, err)
	require.True(t, i.Quarantined)
	require.Equal(t, map[string]uint64{"trap": 5}, i.FaultsBy)
	_, err = r.Release("mine")
	require.NoError(t, err)
	require.NotNil(t, j.ExcerptSpec())
	_, err = rule(1)
	require.NoError(t, err)
}

// A judge is replaced and rolled back while it is called. Each call gets the ruling of one of its modules.
func TestAJudgeIsReplacedUnderLoad(t *testing.T) {
	r := judges(t)
	code := func(kind float64) []byte { return w.Judge(w.Rules(kind, 0)...).Bytes() }
	_, err := r.Put("mine", code(1), nil, false)
	require.NoError(t, err)
	j, err := r.Judge("mine")
	require.NoError(t, err)
	stop := coretest.RunConcurrently(4, func(int) {
		ruling, err := j.Rule(&core.JudgeRequest{Now: 1}, &core.Excerpt{Body: []byte("page")})
		if err != nil || ruling.Kind != core.RulingRetry && ruling.Kind != core.RulingOtherProxy {
			t.Error(ruling, err)
		}
		if j.ExcerptSpec() == nil {
			t.Error("the judge asks for nothing")
		}
	})
	for i := range 10 {
		_, err := r.Put("mine", code(float64(1+i%2)), nil, true)
		require.NoError(t, err)
		_, err = r.RollBack("mine")
		require.NoError(t, err)
	}
	stop()
	i, err := r.Get("mine")
	require.NoError(t, err)
	require.Zero(t, i.Faults, i.LastError)
}

// A plugin of another kind is not a judge. The kind of a name does not change.
func TestNamesOfJudges(t *testing.T) {
	r := judges(t)
	_, err := r.Judge("random")
	require.EqualError(t, err, `there is no judge named "random"; there are ban_like, none`)
	_, err = r.Scorer("ban_like", "")
	require.ErrorContains(t, err, `there is no scorer named "ban_like"`)
	_, err = r.Put("mine", w.Judge().Bytes(), nil, false)
	require.NoError(t, err)
	_, err = r.Put("mine", w.Backoff(w.ConstF64(1)...).Bytes(), nil, true)
	require.ErrorContains(t, err, `"mine" is a judge; a backoff needs another name`)
	_, err = r.TestJudge("random", nil)
	require.ErrorIs(t, err, core.ErrNotFound)
	ruling, err := r.TestJudge("ban_like", func(wants *core.ExcerptSpec) (*core.JudgeRequest, *core.Excerpt) {
		require.True(t, wants.IncludesStatus(403) && !wants.IncludesStatus(200))
		return &core.JudgeRequest{Status: 403, Length: math.NaN()}, &core.Excerpt{}
	})
	require.NoError(t, err)
	require.Equal(t, 10*time.Minute, ruling.BanTime)
}
