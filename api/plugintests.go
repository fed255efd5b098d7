package api

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/selector"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
	"github.com/whirlpool-proxy/whirlpool/plugins/sample"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// pluginTester calls a plugin for a test. The gateway uses the result for nothing else.
type pluginTester interface {
	TestScorer(name string, c core.Candidates) ([]float64, error)
	TestBackoff(name string, q *core.BackoffRequest) (seconds float64, err error)
	TestJudge(name string, sample func(*core.ExcerptSpec) (*core.JudgeRequest, *core.Excerpt)) (core.Ruling, error)
}

// describer is the part of the engine that the test of a scorer uses.
type describer interface {
	// Describe fills row with the columns that a scorer gets for a proxy.
	Describe(u *upstream.Upstream, row *core.Candidate)
}

// testInput is the JSON input for a test of a plugin. The records and their fields have the names in sdk/ABI.md. If
// Candidates is nil, a scorer gets the proxies of the pool.
type testInput struct {
	Request    map[string]float64   `json:"request"`
	Candidates []map[string]float64 `json:"candidates"`
	Fields     map[string]string    `json:"fields"` // header fields of the response; Fields and Body are for judges
	Body       string               `json:"body"`
}

// test calls a plugin once or several times with the input, and responds with the results.
func (h *pluginHandler) test(c *fiber.Ctx) error {
	name := c.Params("name")
	i, err := h.registry.Get(name)
	if err != nil {
		return err
	}
	var input testInput
	if len(c.Body()) > 0 {
		if err := decodeBody(c, &input); err != nil {
			return err
		}
	}
	if i.Kind == wasmhost.Judge {
		return h.testJudge(c, name, &input)
	}
	if input.Fields != nil || input.Body != "" {
		return badField("fields", "fields and body are for judges; "+name+" is a "+string(i.Kind))
	}
	if i.Kind == wasmhost.Backoff {
		return h.testBackoff(c, name, &input)
	}
	return h.testScorer(c, name, &input)
}

func pluginFault(err error) error {
	return newProblem(fiber.StatusUnprocessableEntity, "plugin_fault", err.Error())
}

// testBackoff responds with the delay before each retry under the global policy. If the input has a request, its fields
// replace the values of the policy, and there is only one delay.
func (h *pluginHandler) testBackoff(c *fiber.Ctx, name string, input *testInput) error {
	if input.Candidates != nil {
		return badField("candidates", "candidates are for scorers; "+name+" is a backoff")
	}
	p := h.policies.Current()
	previousLine := h.lastLine(name)
	delays := []float64{}
	for n := 1; n <= p.MaxAttempts; n++ {
		q := core.BackoffRequest{
			Retry: float64(n), BaseDelay: p.BaseDelay, Multiplier: p.Multiplier, Cap: p.MaxBackoffDelay,
			Random: 0.5, Remaining: -1, MaxAttempts: float64(p.MaxAttempts),
		}
		if err := setFields("request", input.Request, &q); err != nil {
			return err
		}
		d, err := h.registry.TestBackoff(name, &q)
		if err != nil {
			return pluginFault(err)
		}
		delays = append(delays, d)
		if input.Request != nil {
			break
		}
	}
	return h.sendTest(c, name, previousLine, "delays", delays)
}

// rulingView is the ruling on one response.
type rulingView struct {
	Response string   `json:"response,omitempty"` // name of the sample; absent for the response of the input
	Ruling   string   `json:"ruling"`
	Rest     *float64 `json:"rest_seconds,omitempty"` // set only with the ruling banned
}

// testJudge responds with the judge's ruling on the response in the input. If the input has no response, it responds
// with the rulings on samples.
func (h *pluginHandler) testJudge(c *fiber.Ctx, name string, input *testInput) error {
	if input.Candidates != nil {
		return badField("candidates", "candidates are for scorers; "+name+" is a judge")
	}
	samples := sample.Responses()
	if input.Request != nil || input.Fields != nil || input.Body != "" {
		var fields []string
		for _, name := range slices.Sorted(maps.Keys(input.Fields)) {
			fields = append(fields, name, input.Fields[name])
		}
		response := sample.NewResponse("", 200, input.Body, fields...)
		if err := setFields("request", input.Request, &response.Request); err != nil {
			return err
		}
		samples = []sample.Response{response}
	}
	previousLine, rulings := h.lastLine(name), []rulingView{}
	for i := range samples {
		ruling, err := h.registry.TestJudge(name, samples[i].ForJudge)
		if err != nil {
			return pluginFault(err)
		}
		view := rulingView{Response: samples[i].Name, Ruling: ruling.Kind.String()}
		if ruling.Kind == core.RulingBanned {
			seconds := ruling.BanTime.Seconds()
			view.Rest = &seconds
		}
		rulings = append(rulings, view)
	}
	return h.sendTest(c, name, previousLine, "rulings", rulings)
}

// scoreView is the score of one candidate.
type scoreView struct {
	Candidate int     `json:"candidate"`
	ProxyID   *string `json:"proxy_id,omitempty"` // absent for candidates of the input
	Score     float64 `json:"score"`
}

func (h *pluginHandler) testScorer(c *fiber.Ctx, name string, input *testInput) error {
	var ids []string
	var rows []core.Candidate
	var err error
	if input.Candidates != nil {
		rows, err = candidatesOf(input)
	} else {
		ids, rows, err = h.poolCandidates()
	}
	if err != nil {
		return err
	}
	n := float64(len(rows))
	choice := sample.Choice{Request: core.RankRequest{Idempotent: 1, Count: n, PoolSize: n}, Rows: rows}
	if err := setFields("request", input.Request, &choice.Request); err != nil {
		return err
	}
	choice.Request.Count = n
	before := h.lastLine(name)
	scores, err := h.registry.TestScorer(name, &choice)
	if err != nil {
		return pluginFault(err)
	}
	out := make([]scoreView, len(scores))
	for i, score := range scores {
		out[i] = scoreView{Candidate: i, Score: score}
		if ids != nil {
			out[i].ProxyID = &ids[i]
		}
	}
	return h.sendTest(c, name, before, "scores", out)
}

// sendTest responds with the result of a test, and with the log lines that the plugin has written in the test. Their
// numbers are greater than previousLine.
func (h *pluginHandler) sendTest(c *fiber.Ctx, name string, previousLine uint64, field string, result any) error {
	response := fiber.Map{field: result}
	if lines, err := h.registry.Log(name, previousLine); err == nil && len(lines) > 0 {
		response["log"] = viewsOfLines(lines)
	}
	return send(c, response)
}

const maxCandidates = 10_000

func candidatesOf(input *testInput) ([]core.Candidate, error) {
	if len(input.Candidates) == 0 || len(input.Candidates) > maxCandidates {
		return nil, badField("candidates", fmt.Sprintf("candidates must be 1 to %d", maxCandidates))
	}
	rows := make([]core.Candidate, len(input.Candidates))
	for i, values := range input.Candidates {
		rows[i] = core.Candidate{SuccessRate: 0.5, Weight: 1, SinceUse: -1, Rotation: float64(i)}
		if err := setFields(fmt.Sprintf("candidates[%d]", i), values, &rows[i]); err != nil {
			return nil, err
		}
	}
	selector.Normalize(rows)
	for i, values := range input.Candidates { // values of the input replace the defaults
		if n, ok := values["normalized_latency"]; ok {
			rows[i].NormalizedLatency = n
		}
	}
	return rows, nil
}

func (h *pluginHandler) poolCandidates() (ids []string, rows []core.Candidate, err error) {
	all := sortedByID(h.pool.Snapshot())
	if len(all) == 0 {
		return nil, nil, conflict("the pool has no proxies to score; send candidates")
	}
	rows = make([]core.Candidate, len(all))
	for i, u := range all {
		h.engine.Describe(u, &rows[i])
		rows[i].Rotation = float64(i)
		ids = append(ids, u.ID())
	}
	selector.Normalize(rows)
	return ids, rows, nil
}

// setFields sets fields of a record by their names in sdk/ABI.md. The parameter record is a pointer to a struct of
// float64. The parameter path names the record in errors.
func setFields(path string, values map[string]float64, record any) error {
	v := reflect.ValueOf(record).Elem()
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		fields[snakeCase(v.Type().Field(i).Name)] = v.Field(i)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		field, ok := fields[name]
		if !ok {
			names := strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
			place := path + "." + name
			return badField(place, place+" is not a field of this record; its fields are "+names)
		}
		field.SetFloat(values[name])
	}
	return nil
}

// snakeCase converts the name of a Go field to its name in sdk/ABI.md: IDHash becomes id_hash.
func snakeCase(name string) string {
	runes, out := []rune(name), strings.Builder{}
	for i, r := range runes {
		nextIsLower := i+1 < len(runes) && unicode.IsLower(runes[i+1])
		if i > 0 && unicode.IsUpper(r) && (unicode.IsLower(runes[i-1]) || nextIsLower) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}
