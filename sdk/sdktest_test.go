package sdk_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
	"github.com/whirlpool-proxy/whirlpool/sdk/backoff"
	"github.com/whirlpool-proxy/whirlpool/sdk/configure"
	"github.com/whirlpool-proxy/whirlpool/sdk/judge"
	"github.com/whirlpool-proxy/whirlpool/sdk/scorer"
	"github.com/whirlpool-proxy/whirlpool/sdk/sdktest"
)

type scores func(req *abi.RankRequest, candidates []abi.Candidate, scores []float64)

func (f scores) Score(req *abi.RankRequest, candidates []abi.Candidate, out []float64) {
	f(req, candidates, out)
}

type waits func(req *abi.BackoffRequest) float64

func (f waits) Delay(req *abi.BackoffRequest) float64 { return f(req) }

// picky has settings, one of which is required.
type picky struct{ scores }

func (picky) Configure(s *configure.Settings) error {
	s.Float("a", math.NaN(), 0, 1)
	return configure.Apply(nothing{}, configure.New(configure.Setting{Key: "b"}))
}

type nothing struct{}

func (nothing) Configure(*configure.Settings) error { return nil }

func TestCheckScorer(t *testing.T) {
	calls := 0.0
	for want, s := range map[string]scorer.Scorer{
		"": scores(func(_ *abi.RankRequest, c []abi.Candidate, out []float64) { out[0] = c[0].Weight }),
		"event 0: it answered NaN; it must be finite": scores(func(_ *abi.RankRequest, _ []abi.Candidate,
			out []float64) {
			out[len(out)-1] = math.NaN()
		}),
		"event 0: it wrote to the candidates": scores(func(_ *abi.RankRequest, c []abi.Candidate,
			_ []float64) {
			c[0].Cost++
		}),
		"it answered differently to the same events: chance is the request's Seed or Random, the time its Now": scores(
			func(_ *abi.RankRequest, _ []abi.Candidate, out []float64) { calls++; out[0] = calls }),
		"without settings: there is no setting b": picky{},
	} {
		err := sdktest.CheckScorer(func() scorer.Scorer { return s })
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, want)
	}
}

func TestCheckBackoff(t *testing.T) {
	for want, b := range map[string]waits{
		"":                         func(q *abi.BackoffRequest) float64 { return q.BaseDelay * q.Retry },
		"must be at least 0":       func(q *abi.BackoffRequest) float64 { return 50 - q.Retry },
		"it answered +Inf; it mus": func(q *abi.BackoffRequest) float64 { return math.Pow(10, 10*q.Retry) },
		"it wrote to the request":  func(q *abi.BackoffRequest) float64 { q.Cap = 1; return 1 },
	} {
		err := sdktest.CheckBackoff(func() backoff.Backoff { return b })
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
	}
}

func TestRecordings(t *testing.T) {
	var choices, delays, ends int
	known := map[float64]bool{}
	for _, e := range sdktest.Recorded() {
		switch {
		case e.Request != nil:
			require.EqualValues(t, len(e.Candidates), e.Request.Count)
			for _, c := range e.Candidates {
				known[c.IDHash] = true
			}
			choices++
		case e.Backoff != nil:
			require.True(t, known[e.Backoff.IDHash])
			delays++
		case e.Observation != nil:
			require.True(t, known[e.Observation.IDHash])
			ends++
		}
	}
	require.Equal(t, 50+delays, choices, "a choice for each request and each retry")
	require.Equal(t, choices, ends)
	require.Positive(t, delays)
	require.Len(t, known, 6)

	r, err := sdktest.Read(strings.NewReader(`[{"Observation": {"Success": 1}}]`))
	require.NoError(t, err)
	require.Equal(t, sdktest.Recording{{Observation: &abi.Observation{Success: 1}}}, r)
	for text, want := range map[string]string{
		`[{}]`:                 "event 0 must be one of",
		`[{"Request": {}}]`:    "event 0 must be one of",
		`[{"Observed": null}]`: "unknown field",
		`{}`:                   "the recording: ",
	} {
		_, err := sdktest.Read(strings.NewReader(text))
		require.ErrorContains(t, err, want)
	}
}

type rulings func(r *judge.Response) judge.Ruling

func (f rulings) Judge(r *judge.Response) judge.Ruling { return f(r) }

func TestCheckJudge(t *testing.T) {
	calls := 0.0
	for want, j := range map[string]judge.Judge{
		"": rulings(func(r *judge.Response) judge.Ruling {
			if r.Status == 403 || r.Has("page") && string(r.Field("content-type")) == "text/html" {
				return judge.Ruling{Kind: judge.Banned, Rest: r.Now}
			}
			return judge.Ruling{}
		}),
		"response 0: the kind of the ruling is 7; it must be 0 to 4": rulings(func(*judge.Response) judge.Ruling {
			return judge.Ruling{Kind: 7}
		}),
		"response 0: the rest is NaN; it must be finite and at least 0": rulings(func(*judge.Response) judge.Ruling {
			return judge.Ruling{Kind: judge.Banned, Rest: math.NaN()}
		}),
		"response 0: it wrote to the body": rulings(func(r *judge.Response) judge.Ruling {
			r.Body[0] = 'X'
			return judge.Ruling{}
		}),
		"it answered differently to the same events: chance is the request's Seed or Random, the time its Now": rulings(
			func(*judge.Response) judge.Ruling { calls++; return judge.Ruling{Rest: calls} }),
	} {
		err := sdktest.CheckJudge(func() judge.Judge { return j })
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, want)
	}
}
