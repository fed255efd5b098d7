package strict

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wait is a Value.
type wait time.Duration

func (w *wait) DecodeValue(from any) error {
	text, _ := from.(string)
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("must be a duration")
	}
	*w = wait(d)
	return nil
}

type table struct {
	Name  string         `koanf:"name"`
	Count int            `koanf:"count" range:"1,10"`
	Ratio float64        `koanf:"ratio" range:"0,0.5"`
	Wait  wait           `koanf:"wait" range:"1s,1m"`
	Rows  []row          `koanf:"rows"`
	By    map[string]row `koanf:"by"`
	Own   *row           `koanf:"own"`
	Not   int            `koanf:"-"`
}

type row struct {
	N int `koanf:"n"`
}

func TestDecodeTOML(t *testing.T) {
	for name, c := range map[string]struct {
		document any
		want     []string // errors
	}{
		"no errors": {map[string]any{
			"name": "x", "count": int64(10), "ratio": 0.5, "wait": "1s", "rows": []any{map[string]any{"n": 3.0}},
			"by": map[string]any{"a": map[string]any{"n": int64(1)}}, "own": map[string]any{},
		}, nil},
		"every error, by key": {map[string]any{
			"name": int64(1), "count": int64(11), "ratio": int64(-1), "wait": "90s", "x": int64(1),
		}, []string{
			"s.count: must be 1 to 10", "s.name: must be text in quotes, not a number", "s.ratio: must be 0 to 0.5",
			"s.wait: must be 1s to 1m", "s.x: unknown field; there are by, count, name, own, ratio, rows, wait",
		}},
		"a value of another type has no range": {map[string]any{"count": "11", "wait": "long"}, []string{
			"s.count: must be an integer, not a string", "s.wait: must be a duration",
		}},
		"paths": {map[string]any{
			"rows": []any{map[string]any{"n": int64(1)}, map[string]any{"n": 1.5}, int64(3)},
			"by":   map[string]any{"a": map[string]any{"N": int64(1)}}, "own": []any{},
		}, []string{
			"s.by.a.N: unknown field; did you mean n?", "s.own: must be a table, not a list",
			"s.rows[1].n: must be an integer", "s.rows[2]: must be a table, not a number",
		}},
		"integers of 32 bits": {map[string]any{"own": map[string]any{"n": int64(1 << 31)}},
			[]string{"s.own.n: must be an integer"}},
		"a date": {map[string]any{"name": time.Time{}},
			[]string{"s.name: must be text in quotes, not a date or time"}},
		"no table": {int64(1), []string{"s: must be a table, not a number"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			TOML.Decode("s", c.document, &table{}, func(e *FieldError) bool {
				got = append(got, e.Error())
				return true
			})
			require.Equal(t, c.want, got)
		})
	}
}

func TestDecodeKeepsOtherFields(t *testing.T) {
	v := table{Name: "x", Count: 3}
	TOML.Decode("", map[string]any{"count": int64(4)}, &v, func(e *FieldError) bool {
		t.Fatal(e)
		return false
	})
	require.Equal(t, table{Name: "x", Count: 4}, v)
}

func TestDecodeStops(t *testing.T) {
	errs := 0
	TOML.Decode("", map[string]any{"count": "x", "name": int64(1), "rows": []any{int64(1), int64(2)}}, &table{},
		func(*FieldError) bool {
			errs++
			return errs < 2
		})
	require.Equal(t, 2, errs)
}
