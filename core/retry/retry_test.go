package retry

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

var (
	noon    = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	builtin = func(name string) bool { return name == "exponential" || name == "linear" || name == "fixed" }
)

func policy(t testing.TB, change func(*Policy)) *Policy {
	p := DefaultPolicy()
	if change != nil {
		change(&p)
	}
	require.NoError(t, p.Validate(builtin))
	return &p
}

func TestPolicyRanges(t *testing.T) {
	f := func(v float64) *float64 { return &v }
	for _, c := range []struct {
		field    string
		good, no []func(*Policy)
	}{
		{"max_attempts", []func(*Policy){func(p *Policy) { p.MaxAttempts = 1 }, func(p *Policy) { p.MaxAttempts = 10 }},
			[]func(*Policy){func(p *Policy) { p.MaxAttempts = 0 }, func(p *Policy) { p.MaxAttempts = 11 }}},
		{"base_delay", []func(*Policy){func(p *Policy) { p.BaseDelay = 0.1 }, func(p *Policy) { p.BaseDelay = 60 }},
			[]func(*Policy){func(p *Policy) { p.BaseDelay = 0.0999 }, func(p *Policy) { p.BaseDelay = 60.01 }}},
		{"multiplier", []func(*Policy){func(p *Policy) { p.Multiplier = 1.1 }, func(p *Policy) { p.Multiplier = 10 }},
			[]func(*Policy){func(p *Policy) { p.Multiplier = 1.09 }, func(p *Policy) { p.Multiplier = 10.01 }}},
		{"max_backoff_delay", []func(*Policy){func(p *Policy) { p.MaxBackoffDelay = 1 },
			func(p *Policy) { p.MaxBackoffDelay = 300 }},
			[]func(*Policy){func(p *Policy) { p.MaxBackoffDelay = 0.99 },
				func(p *Policy) { p.MaxBackoffDelay = 300.1 }}},
		{"timeout", []func(*Policy){func(p *Policy) { p.Timeout = f(0.1) }, func(p *Policy) { p.Timeout = f(1e300) },
			func(p *Policy) { p.Timeout = nil }},
			[]func(*Policy){func(p *Policy) { p.Timeout = f(0.05) }, func(p *Policy) { p.Timeout = f(-1) },
				func(p *Policy) { p.Timeout = f(math.Inf(1)) }, func(p *Policy) { p.Timeout = f(math.NaN()) }}},
		{"failover_delay", []func(*Policy){func(p *Policy) { p.FailoverDelay = f(0) },
			func(p *Policy) { p.FailoverDelay = f(300) }},
			[]func(*Policy){func(p *Policy) { p.FailoverDelay = f(-0.1) },
				func(p *Policy) { p.FailoverDelay = f(301) }}},
		{"backoff_strategy", []func(*Policy){func(p *Policy) { p.BackoffStrategy = "linear" }},
			[]func(*Policy){func(p *Policy) { p.BackoffStrategy = "LINEAR" },
				func(p *Policy) { p.BackoffStrategy = "" }}},
		{"retry_status_codes", []func(*Policy){func(p *Policy) { p.RetryStatusCodes = []int{400, 403, 429, 500, 599} },
			func(p *Policy) { p.RetryStatusCodes = nil }},
			[]func(*Policy){func(p *Policy) { p.RetryStatusCodes = []int{399} },
				func(p *Policy) { p.RetryStatusCodes = []int{600} },
				func(p *Policy) { p.RetryStatusCodes = []int{200} }}},
	} {
		for _, change := range c.good {
			p := DefaultPolicy()
			change(&p)
			assert.NoError(t, p.Validate(builtin), c.field)
		}
		for _, change := range c.no {
			p := DefaultPolicy()
			change(&p)
			var bad *FieldError
			require.ErrorAs(t, p.Validate(builtin), &bad, c.field)
			assert.Equal(t, c.field, bad.Field)
		}
	}
	p := policy(t, func(p *Policy) { p.RetryStatusCodes = []int{503, 502, 503} })
	assert.Equal(t, []int{503, 502}, p.RetryStatusCodes, "in order, without duplicates")
}

func TestHeader(t *testing.T) {
	o, err := ParseHeader("max_attempts=5, backoff_strategy=linear, base_delay=0.2, retry_status_codes=(429 503), " +
		"retry_non_idempotent, jitter=?0, timeout=null, failover_delay=0")
	require.NoError(t, err)
	p := DefaultPolicy()
	q := p.Merge(o)
	require.NoError(t, q.Validate(builtin))
	assert.Equal(t, 5, q.MaxAttempts)
	assert.Equal(t, "linear", q.BackoffStrategy)
	assert.Equal(t, 0.2, q.BaseDelay)
	assert.Equal(t, []int{429, 503}, q.RetryStatusCodes)
	assert.True(t, q.RetryNonIdempotent)
	assert.Nil(t, q.Timeout)
	assert.Zero(t, *q.FailoverDelay)
	assert.Equal(t, 2.0, q.Multiplier, "fields that are not named do not change")
	assert.Equal(t, DefaultPolicy(), p, "the global policy does not change")
	for _, same := range []string{
		`{"max_attempts":5,"backoff_strategy":"linear","base_delay":0.2,"retry_status_codes":[429,503],` +
			`"retry_non_idempotent":true,"jitter":false,"timeout":null,"failover_delay":0}`,
		"max_attempts=5, strategy=linear, base_delay=0.2, retry_status_codes=(429 503), " +
			"retry_non_idempotent=true, jitter=false, timeout=null, failover_delay=0",
	} {
		o, err := ParseHeader(same)
		require.NoError(t, err, same)
		again := p.Merge(o)
		require.NoError(t, again.Validate(builtin))
		assert.Equal(t, q, again, same)
	}
	for _, bad := range []string{
		"{}", "{", `{"max_attempts":5,"max_attempts":5}`, `{"MAX_ATTEMPTS":5}`, `{"max_attempts":"5"}`,
		`{"strategy":"linear"}`, `{"max_attempts":5} x`, "jitter=yes", "jitter=null",
		"", " ", "nonsense", "unknown=1", "max_attempts", "max_attempts=abc", "max_attempts=3.5", "max_attempts=(1)",
		"base_delay=?1", "jitter=1",
		"retry_status_codes=503", "retry_status_codes=(a)", "retry_status_codes=(503;a)",
		"retry_status_codes=(99999999999)", "timeout=soon",
		"max_attempts=5;x=1", "MAX_ATTEMPTS=5", "max_attempts=5,", "backoff_strategy=3", "max_attempts=5 base_delay=1",
	} {
		_, err := ParseHeader(bad)
		var fe *FieldError
		assert.ErrorAs(t, err, &fe, "%q", bad)
	}
}

// An error becomes part of the error response. So it quotes only the beginning of a value.
func TestErrorsAreShort(t *testing.T) {
	long := strings.Repeat("a", 50_000)
	for _, bad := range []string{long, long + "=1", `{"` + long + `": 1}`, `{"max_attempts": "` + long + `"}`,
		`{"max_attempts": 1` + strings.Repeat("0", 50_000) + `}`} {
		_, err := ParseHeader(bad)
		require.Error(t, err)
		assert.Less(t, len(err.Error()), 300)
	}
}

// FuzzParseHeader: no value leads to a panic, and a policy that passes Validate is within its ranges.
func FuzzParseHeader(f *testing.F) {
	f.Add("max_attempts=5, backoff_strategy=linear, base_delay=0.2, retry_status_codes=(429 503), retry_non_idempotent")
	f.Add("timeout=null, failover_delay=0.5, jitter")
	f.Add(`backoff_strategy="fixed";a=1`)
	f.Fuzz(func(t *testing.T, value string) {
		o, err := ParseHeader(value)
		if err != nil {
			return
		}
		p := DefaultPolicy()
		q := p.Merge(o)
		if q.Validate(builtin) != nil {
			return
		}
		if q.MaxAttempts < 1 || q.MaxAttempts > 10 || !(q.BaseDelay >= 0.1 && q.BaseDelay <= 60) ||
			!(q.MaxBackoffDelay >= 1 && q.MaxBackoffDelay <= 300) {
			t.Fatalf("%q: %+v", value, q)
		}
	})
}

func TestEqualPoliciesHaveEqualHashes(t *testing.T) {
	draw := func(t *rapid.T, label string) *Policy {
		p := DefaultPolicy()
		p.MaxAttempts = rapid.IntRange(1, 2).Draw(t, label)
		p.Jitter = rapid.Bool().Draw(t, label)
		p.RetryStatusCodes = rapid.SliceOfN(rapid.SampledFrom([]int{502, 503}), 0, 2).Draw(t, label)
		if rapid.Bool().Draw(t, label) {
			p.FailoverDelay = new(float64)
		}
		require.NoError(t, p.Validate(builtin))
		return &p
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		same := a.MaxAttempts == b.MaxAttempts && a.Jitter == b.Jitter &&
			(a.FailoverDelay == nil) == (b.FailoverDelay == nil)
		for _, code := range []int{502, 503} {
			same = same && a.RetriesStatus(code) == b.RetriesStatus(code)
		}
		if same != (a.Hash() == b.Hash()) {
			t.Fatalf("%+v\n%+v", a, b)
		}
	})
}

func TestStore(t *testing.T) {
	now := noon
	s := NewStore(DefaultPolicy(), func() time.Time { return now })
	assert.Equal(t, View{DefaultPolicy(), noon, SourceFile}, s.View())
	var changes []View
	s.OnChange(func(v View) { changes = append(changes, v) })
	five := func(p Policy) (Policy, error) { p.MaxAttempts = 5; return p, p.Validate(builtin) }
	v, err := s.Put(five)
	require.NoError(t, err)
	assert.True(t, v.UpdatedAt.After(noon), "it grows even if the clock does not")
	assert.Equal(t, SourceRuntime, v.Source)
	again, err := s.Put(five)
	require.NoError(t, err)
	assert.Equal(t, v, again, "without a change the time stays")
	_, err = s.Put(func(Policy) (Policy, error) { return Policy{}, errors.New("no") })
	assert.Error(t, err)
	assert.Equal(t, v, s.View(), "an error changes nothing")
	s.ReloadFile(DefaultPolicy(), builtin)
	assert.Equal(t, v, s.View(), "the file's policy has not changed: the update remains")
	_, err = s.Put(func(p Policy) (Policy, error) {
		p.BackoffStrategy = "mine"
		return p, p.Validate(func(string) bool { return true })
	})
	require.NoError(t, err)
	s.ReloadFile(DefaultPolicy(), builtin)
	assert.Equal(t, v.Policy, s.View().Policy,
		"the file's backoff replaces one that no longer exists; the rest of the update remains")
	assert.Equal(t, SourceRuntime, s.View().Source)
	s.ReloadFile(*policy(t, func(p *Policy) { p.MaxAttempts = 7 }), builtin)
	assert.Equal(t, 7, s.Current().MaxAttempts)
	assert.Equal(t, SourceFile, s.View().Source)
	assert.Len(t, changes, 4, "each change once, and no others")
	assert.Equal(t, v, changes[0])
	assert.Equal(t, s.View(), changes[3])
}

func TestConcurrentUpdates(t *testing.T) {
	s := NewStore(*policy(t, func(p *Policy) { p.MaxAttempts, p.BaseDelay = 2, 0.2 }), time.Now)
	stop := coretest.RunConcurrently(4, func(int) {
		if p := s.Current(); float64(p.MaxAttempts) != p.BaseDelay*10 {
			t.Errorf("%d attempts with %v s", p.MaxAttempts, p.BaseDelay)
		}
	})
	for i := range 1000 {
		_, err := s.Put(func(p Policy) (Policy, error) {
			p.MaxAttempts = 2 + i%5
			p.BaseDelay = float64(p.MaxAttempts) / 10
			return p, p.Validate(builtin)
		})
		require.NoError(t, err)
	}
	stop()
}

// TestBudgetModel compares the budget with a balance computed from the whole history.
func TestBudgetModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := noon
		cfg := BudgetConfig{Ratio: rapid.Float64Range(0.01, 1).Draw(t, "ratio"),
			MinPerSecond: rapid.Float64Range(0, 2).Draw(t, "min")}
		b := NewBudget(cfg, now)
		type event struct {
			second int64
			amount float64
		}
		var history []event
		second := func() int64 { return int64(now.Sub(noon) / time.Second) }
		balance := func() float64 {
			sum := cfg.MinPerSecond * budgetSeconds
			for _, e := range history {
				if second()-e.second < budgetSeconds {
					sum += e.amount
				}
			}
			return sum
		}
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 15000).Draw(t, "ms")) * time.Millisecond)
			},
			"deposit": func(t *rapid.T) { b.Deposit(now); history = append(history, event{second(), cfg.Ratio}) },
			"withdraw": func(t *rapid.T) {
				have := balance()
				if have > 1-1e-9 && have < 1+1e-9 {
					return // the difference is due to rounding
				}
				got := b.TryWithdraw(now)
				if got != (have >= 1) {
					t.Fatalf("balance %v, withdrawn %v", have, got)
				}
				if got {
					history = append(history, event{second(), -1})
				}
			},
		})
	})
	assert.Nil(t, NewBudget(BudgetConfig{}, time.Now()), "without a ratio there is no budget")
}
