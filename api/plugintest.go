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
	"github.com/whirlpool-proxy/whirlpool/plugins/trial"
	"github.com/whirlpool-proxy/whirlpool/plugins/wasmhost"
)

// trialIn is what a plugin is tried on: records as sdk/ABI.md has them, by the
// names of their fields. Without candidates a scorer sees the live pool.
type trialIn struct {
	Request    map[string]float64   `json:"request"`
	Candidates []map[string]float64 `json:"candidates"`
}

// testPlugin runs a plugin without using its answer.
func (s *Server) testPlugin(c *fiber.Ctx) error {
	name := c.Params("name")
	i, err := s.Plugins.Get(name)
	if err != nil {
		return err
	}
	var in trialIn
	if len(c.Body()) > 0 {
		if err := decode(c, &in); err != nil {
			return err
		}
	}
	if i.Kind == wasmhost.Backoff {
		return s.testBackoff(c, name, &in)
	}
	return s.testScorer(c, name, &in)
}

// testBackoff answers with the delay before each retry of the policy in force
// or, with a request, with the one it asks for.
func (s *Server) testBackoff(c *fiber.Ctx, name string, in *trialIn) error {
	if in.Candidates != nil {
		return refuse(400, "invalid_field", "candidates are for scorers; "+name+" is a backoff", fiber.Map{"field": "candidates"})
	}
	p := s.Engine.Policies().Current()
	delays := []float64{}
	for n := 1; n <= p.MaxAttempts; n++ {
		q := core.BackoffRequest{
			Retry: float64(n), BaseDelay: p.BaseDelay, Multiplier: p.Multiplier, Cap: p.MaxBackoffDelay, Random: 0.5, Remaining: -1, MaxAttempts: float64(p.MaxAttempts),
		}
		if err := record("request", in.Request, &q); err != nil {
			return err
		}
		d, err := s.Plugins.TestBackoff(name, &q)
		if err != nil {
			return refuse(422, "plugin_fault", err.Error(), nil)
		}
		delays = append(delays, d)
		if in.Request != nil {
			break
		}
	}
	return s.send(c, fiber.Map{"delays": delays})
}

func (s *Server) testScorer(c *fiber.Ctx, name string, in *trialIn) error {
	var ids []string
	l := trial.Choice{Request: core.RankRequest{Idempotent: 1}}
	if in.Candidates != nil {
		if len(in.Candidates) == 0 || len(in.Candidates) > maxTrial {
			return refuse(400, "invalid_field", fmt.Sprintf("candidates must be 1 to %d", maxTrial), fiber.Map{"field": "candidates"})
		}
		l.Rows = make([]core.Candidate, len(in.Candidates))
		for i, values := range in.Candidates {
			l.Rows[i] = core.Candidate{SuccessRate: 0.5, Weight: 1, SinceUse: -1, Rotation: float64(i)}
			if err := record(fmt.Sprintf("candidates[%d]", i), values, &l.Rows[i]); err != nil {
				return err
			}
		}
		selector.Normalize(l.Rows)
		for i, values := range in.Candidates { // said expressly, it stands
			if n, ok := values["normalized_latency"]; ok {
				l.Rows[i].NormalizedLatency = n
			}
		}
	} else {
		all := sorted(s.Engine.Pool().Snapshot())
		if len(all) == 0 {
			return refuse(409, "conflict", "the pool has no proxies to score; give candidates", nil)
		}
		l.Rows = make([]core.Candidate, len(all))
		for i, u := range all {
			s.Engine.Describe(u, &l.Rows[i])
			l.Rows[i].Rotation = float64(i)
			ids = append(ids, u.ID())
		}
		selector.Normalize(l.Rows)
	}
	l.Request.Count, l.Request.PoolSize = float64(len(l.Rows)), float64(len(l.Rows))
	if err := record("request", in.Request, &l.Request); err != nil {
		return err
	}
	l.Request.Count = float64(len(l.Rows))
	scores, err := s.Plugins.TestScorer(name, &l)
	if err != nil {
		return refuse(422, "plugin_fault", err.Error(), nil)
	}
	out := make([]fiber.Map, len(scores))
	for i, score := range scores {
		out[i] = fiber.Map{"candidate": i, "score": score}
		if ids != nil {
			out[i]["proxy_id"] = ids[i]
		}
	}
	return s.send(c, fiber.Map{"scores": out})
}

// maxTrial bounds the candidates of a trial.
const maxTrial = 10_000

// record sets fields of a record of float64 by their names in sdk/ABI.md.
func record(path string, values map[string]float64, to any) error {
	v := reflect.ValueOf(to).Elem()
	known := map[string]reflect.Value{}
	for i := range v.NumField() {
		known[snake(v.Type().Field(i).Name)] = v.Field(i)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		field, ok := known[name]
		if !ok {
			names := strings.Join(slices.Sorted(maps.Keys(known)), ", ")
			return refuse(400, "invalid_field", path+"."+name+" is not a field of this record; there are "+names, fiber.Map{"field": path + "." + name})
		}
		field.SetFloat(values[name])
	}
	return nil
}

// snake turns a Go name into the ABI's: IDHash is id_hash.
func snake(name string) string {
	runes, out := []rune(name), strings.Builder{}
	for i, r := range runes {
		starts := i > 0 && unicode.IsUpper(r) && (unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
		if starts {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}
