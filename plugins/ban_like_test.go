package plugins_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/plugins/builtin"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// judgeOf loads the built-in judge ban_like with settings.
func judgeOf(t *testing.T, config map[string]any) *wasmhost.Module {
	m, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(builtin.Modules()["ban_like"], config)
	require.NoError(t, err)
	t.Cleanup(m.Close)
	return m
}

func page(body string, fields ...string) *core.Excerpt {
	e := &core.Excerpt{Body: []byte(body)}
	for i := 0; i < len(fields); i += 2 {
		e.Fields = append(e.Fields, core.ExcerptField{Name: fields[i], Value: []byte(fields[i+1])})
	}
	return e
}

func TestBanLike(t *testing.T) {
	markers := map[string]any{
		"body": []any{"Are you a robot", "captcha", "größe"}, "rest": 60.0,
		"fields": []any{"CF-Mitigated: challenge", "x-blocked:"},
	}
	far := strings.Repeat("r", 8192-7) + "CAPTCHA"
	for _, c := range []struct {
		name   string
		config map[string]any
		status float64
		page   *core.Excerpt
		rest   time.Duration // 0 for the ruling fine
	}{
		{"200", nil, 200, page(""), 0},
		{"403", nil, 403, page(""), 10 * time.Minute},
		{"429", nil, 429, page("", "retry-after", "soon"), 10 * time.Minute},
		{"429 with Retry-After", nil, 429, page("", "retry-after", "90"), 90 * time.Second},
		{"403 with Retry-After", nil, 403, page("", "retry-after", "90"), 10 * time.Minute},
		{"503", nil, 503, page("captcha"), 0},
		{"a configured status", map[string]any{"statuses": []any{"503", 451}}, 451, page(""), 10 * time.Minute},
		{"a status that is not configured", map[string]any{"statuses": []any{503}}, 403, page(""), 0},
		{"a text in another case", markers, 200, page("<h1>ARE YOU a RoBoT?"), time.Minute},
		{"a text at the end", markers, 200, page(far), time.Minute},
		{"a text that is cut off", markers, 200, page(far[:len(far)-1]), 0},
		{"a text that is not ASCII", markers, 200, page("die Größe"), time.Minute},
		{"a text that begins like another", map[string]any{"body": []any{"aab", "abc", "bcx"}}, 200, page("aabbcx"),
			10 * time.Minute},
		{"a text within another", map[string]any{"body": []any{"abcdef", "cd"}}, 200, page("abcdx"), 10 * time.Minute},
		{"a page without a text", markers, 200, page(strings.Repeat("are you a cap ", 500)), 0},
		{"a field", markers, 200, page("", "cf-mitigated", "Challenge, x"), time.Minute},
		{"a field with another value", markers, 200, page("", "cf-mitigated", "none"), 0},
		{"a field with any value", markers, 200, page("", "x-blocked", ""), time.Minute},
		{"403 beside markers", markers, 403, page(""), time.Minute},
	} {
		m := judgeOf(t, c.config)
		got, err := m.Rule(&core.JudgeRequest{Status: c.status}, c.page)
		require.NoError(t, err, c.name)
		want := core.Ruling{}
		if c.rest > 0 {
			want = core.Ruling{Kind: core.RulingBanned, BanTime: c.rest}
		}
		require.Equal(t, want, got, c.name)
	}
	require.Equal(t, &core.ExcerptSpec{Fields: []string{"retry-after"},
		Statuses: []core.Range{{First: 403, Last: 403}, {First: 429, Last: 429}}}, judgeOf(t, nil).ExcerptSpec(),
		"without markers it reads no body, and no response of another status")
	require.Equal(t, &core.ExcerptSpec{Body: 8192, Fields: []string{"retry-after", "cf-mitigated", "x-blocked"}},
		judgeOf(t, markers).ExcerptSpec())
}

func TestSettingsOfBanLike(t *testing.T) {
	many := strings.Repeat("a,", 31) + "b"
	for says, config := range map[string]map[string]any{
		`the setting statuses is "99"; it must be statuses from 100 to 999`:    {"statuses": "99"},
		`the setting statuses is "4x3"; it must be`:                            {"statuses": "4x3"},
		`there is no setting "status"; there are statuses, body, fields, rest`: {"status": "403"},
		`the setting rest is "0.5"; it must be 1 to 86400`:                     {"rest": 0.5},
		`it refused its configuration with status 1: the setting body is "xxx`: {"body": strings.Repeat("x", 2001)},
		`it must have at most 31 items`:                                        {"body": many},
		`the setting fields is "Server"; it must be NAME: TEXT`:                {"fields": "Server"},
		`the setting fields is ": x"; it must be NAME: TEXT`:                   {"fields": ": x"},
		`"a b" is not a name of a header field`:                                {"fields": "a b: x"},
	} {
		_, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(builtin.Modules()["ban_like"], config)
		require.ErrorContains(t, err, says)
	}
}

// The automaton finds a text if and only if the page contains it.
func TestTextsOfBanLike(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		word := rapid.StringOfN(rapid.RuneFrom([]rune("abC")), 1, 4, -1)
		texts := rapid.SliceOfN(word, 1, 5).Draw(rt, "texts")
		body := rapid.StringOfN(rapid.RuneFrom([]rune("AabcC")), 0, 30, -1).Draw(rt, "body")
		m, err := wasmhost.New(wasmhost.DefaultLimits(), "").Load(builtin.Modules()["ban_like"],
			map[string]any{"body": strings.Join(texts, ",")})
		require.NoError(rt, err)
		defer m.Close()
		got, err := m.Rule(&core.JudgeRequest{Status: 200}, page(body))
		require.NoError(rt, err)
		want := false
		for _, text := range texts {
			want = want || strings.Contains(strings.ToLower(body), strings.ToLower(text))
		}
		require.Equal(rt, want, got.Kind == core.RulingBanned)
	})
}

// A page that almost contains every text takes no more fuel than any other page.
func TestFuelOfBanLike(t *testing.T) {
	var texts []string
	for i := range 31 {
		texts = append(texts, strings.Repeat("a", 60)+string(rune('b'+i%20)))
	}
	m := judgeOf(t, map[string]any{"body": strings.Join(texts, ",")})
	p, err := m.Probe()
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Rule(&core.JudgeRequest{Status: 200}, page(strings.Repeat("a", 8192)))
	require.NoError(t, err)
	spent := wasmhost.DefaultLimits().Fuel - p.Fuel()
	t.Logf("%d units of fuel", spent)
	require.Less(t, spent, int64(600_000))
}
