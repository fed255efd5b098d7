package plugins_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins"
	w "github.com/whirlpool-proxy/whirlpool/plugins/wasmhost/wasmtest"
)

// settable is a scorer that declares two settings and accepts any values.
func settable() []byte {
	m := w.Scorer(w.Scores(1)...)
	m.Data = []w.Data{{Offset: 40_000, Bytes: []byte("margin\tnumber\t0..1\t0.1\nname\ttext\n\x00")}}
	return m.Add(
		w.Func{Export: "describe", Results: []byte{w.I32}, Code: w.Const32(40_000)},
		w.Func{Export: "configure", Params: []byte{w.I32, w.I32}, Results: []byte{w.I32}, Code: w.Const32(0)},
	).Bytes()
}

func TestConfigure(t *testing.T) {
	dir := t.TempDir()
	open := func() *plugins.Registry {
		r, err := plugins.New(plugins.Options{Limits: patient(), Log: slog.New(slog.DiscardHandler), StateDir: dir})
		require.NoError(t, err)
		return r
	}
	r := open()
	configure := func(changes map[string]any) error {
		u, err := r.Configure("mine", changes, true)
		if err != nil {
			return err
		}
		<-u.Done()
		return u.Status().Err
	}
	require.ErrorIs(t, configure(nil), core.ErrNotFound)
	_, err := r.Configure("random", nil, true)
	require.ErrorIs(t, err, core.ErrConflict)

	_, err = r.Put("mine", settable(), map[string]any{"name": "secret"}, false)
	require.NoError(t, err)
	values := func() string {
		i, err := r.Get("mine")
		require.NoError(t, err)
		require.Len(t, i.Settings, 2)
		require.Empty(t, i.Settings[1].Value, "a text of any content may be secret")
		return i.Settings[0].Value
	}
	require.Empty(t, values())
	require.NoError(t, configure(map[string]any{"margin": 0.5}))
	require.Equal(t, "0.5", values())
	require.ErrorContains(t, configure(map[string]any{"margin": 7}), "it must be 0 to 1")
	require.Equal(t, "0.5", values(), "a change that is refused changes nothing")
	require.NoError(t, configure(map[string]any{"margin": 0.25}))
	_, err = r.RollBack("mine")
	require.NoError(t, err)
	require.Equal(t, "0.5", values())
	r.Close()
	r = open()
	require.Equal(t, "0.5", values(), "they are kept")
	require.NoError(t, configure(map[string]any{"margin": nil}))
	require.Empty(t, values())
	u, err := r.Configure("mine", map[string]any{"margin": 0.75}, false)
	require.NoError(t, err)
	<-u.Done()
	require.Equal(t, "0.75", values())
	r.Close()
	r = open()
	require.Empty(t, values(), "a temporary change ends with the process")
	r.Close()
}

// A change of the settings is applied to the result of the uploads that are still in progress: to their module and
// their settings.
func TestConfigureTwiceAtOnce(t *testing.T) {
	entered, proceed := make(chan struct{}, 4), make(chan struct{})
	var hold atomic.Bool
	r, err := plugins.New(plugins.Options{Limits: patient(), Log: slog.New(slog.DiscardHandler),
		Check: func(context.Context, []byte, plugins.Spec) error {
			if hold.Load() {
				entered <- struct{}{}
				<-proceed
			}
			return nil
		},
	})
	require.NoError(t, err)
	defer r.Close()
	_, err = r.Put("mine", settable(), map[string]any{"name": "a"}, false)
	require.NoError(t, err)
	rebuilt := append(settable(), 0, 2, 1, 'x') // a custom section
	hold.Store(true)
	var all []*plugins.Upload
	add := func(u *plugins.Upload, err error) {
		require.NoError(t, err)
		all = append(all, u)
	}
	add(r.Configure("mine", map[string]any{"margin": 0.5}, true))
	<-entered
	add(r.Configure("mine", map[string]any{"name": nil}, true))
	add(r.Submit("mine", rebuilt, nil, true, true))
	add(r.Configure("mine", map[string]any{"name": "b"}, true))
	hold.Store(false)
	close(proceed)
	for _, u := range all {
		<-u.Done()
		require.NoError(t, u.Status().Err)
	}
	i, err := r.Get("mine")
	require.NoError(t, err)
	require.Equal(t, "0.5", i.Settings[0].Value)
	require.Equal(t, len(rebuilt), i.Size)
}

func TestFaultsAreReported(t *testing.T) {
	now := clock{now: time.Unix(0, 0)}
	var reports []string
	r, err := plugins.New(plugins.Options{
		Limits: patient(),
		Log:    slog.New(slog.DiscardHandler), Now: now.Now,
		OnFault: func(f plugins.FaultReport) {
			reports = append(reports, fmt.Sprint(f.Plugin, " ", f.Reason, " ", f.Faults, " of ", f.Calls, " ",
				f.Quarantined, " ", f.At.Unix()))
		},
	})
	require.NoError(t, err)
	defer r.Close()
	_, err = r.Put("mine", scriptedBackoff(1), nil, false)
	require.NoError(t, err)
	b, err := r.Backoff("mine")
	require.NoError(t, err)
	call := func(behaviour float64) {
		_, err := b.Delay(&core.BackoffRequest{RetryAfter: behaviour})
		require.NoError(t, err, "the built-in answers")
	}
	call(0)
	call(2)
	call(2) // too soon after the last report
	now.now = now.now.Add(time.Minute)
	call(1)
	call(2)
	call(2)
	require.Equal(t, []string{"mine trap 1 of 2 false 0", "mine negative_delay 2 of 2 false 60",
		"mine trap 2 of 2 true 60"}, reports)
}

func TestTheErrorSuggestsASimilarPlugin(t *testing.T) {
	r, err := plugins.New(plugins.Options{Limits: patient(), Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer r.Close()
	_, err = r.Get("randm")
	require.EqualError(t, err, `plugin "randm" not found; did you mean random?`)
	require.ErrorIs(t, err, core.ErrNotFound)
	_, err = r.Get("mine-own")
	require.EqualError(t, err, `plugin "mine-own" not found`)
}
