package strict

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type sample struct {
	Name  *string            `json:"name"`
	Count *int               `json:"count"`
	Rate  *float64           `json:"rate"`
	On    *bool              `json:"on"`
	Wait  Nullable           `json:"wait"`
	List  []inner            `json:"list"`
	Map   map[string]float64 `json:"map"`
	Any   any                `json:"any"`
}

type inner struct {
	URL string `json:"url"`
}

func TestDecode(t *testing.T) {
	var s sample
	require.NoError(t, DecodeJSON([]byte(`{"name":"x","count":3.0,"rate":1e1,"on":true,"wait":null,`+
		`"list":[{"url":"a"},{"url":"b"}],"map":{"A":1},"any":{"k":[1]}}`), &s))
	assert.Equal(t, "x", *s.Name)
	assert.Equal(t, 3, *s.Count)
	assert.Equal(t, 10.0, *s.Rate)
	assert.True(t, *s.On)
	assert.True(t, s.Wait.Set)
	assert.Nil(t, s.Wait.Value)
	assert.Equal(t, []inner{{"a"}, {"b"}}, s.List)
	assert.Equal(t, map[string]float64{"A": 1}, s.Map)
	assert.Equal(t, map[string]any{"k": []any{json.Number("1")}}, s.Any)
	s = sample{}
	require.NoError(t, DecodeJSON([]byte(`{"wait":1.5}`), &s))
	assert.Equal(t, 1.5, *s.Wait.Value)
	assert.Nil(t, s.Name, "what is absent stays nil")
}

func TestUnknownAndWrongFields(t *testing.T) {
	for text, message := range map[string]string{
		`{"Name":"x"}`:                   "Name: unknown field; did you mean name?",
		`{"nome":"x"}`:                   "nome: unknown field; did you mean name?",
		`{"title":"x"}`:                  "title: unknown field; there are any, count, list, map, name, on, rate, wait",
		`{"wat":1,"nome":"x","on":3}`:    "nome: unknown field", // the first by name
		`{"name":"x","name":"y"}`:        "name: appears twice",
		`{"any":{"a":1,"a":2}}`:          "any.a: appears twice",
		`{"name":null}`:                  "name: must be a string, not null",
		`{"count":"3"}`:                  "count: must be an integer, not a string",
		`{"count":3.5}`:                  "count: must be an integer",
		`{"count":1e400}`:                "count: is out of the range of numbers",
		`{"count":9007199254740994}`:     "count: must be an integer",
		`{"on":1}`:                       "on: must be true or false, not a number",
		`{"list":[{"url":"a"},{"u":1}]}`: "list[1].u: unknown field",
		`{"list":{}}`:                    "list: must be an array, not an object",
		`{"map":[]}`:                     "map: must be an object, not an array",
		`[]`:                             "must be an object, not an array",
		`null`:                           "must be an object, not null",
		`{}{}`:                           "there is more after the JSON value",
		`{} x`:                           "there is more after the JSON value",
		``:                               "the JSON ends too early",
		`{`:                              "the JSON ends too early",
		`{"rate":NaN}`:                   "not JSON",
		"{\"name\":\"\xff\"}":            "the body is not valid UTF-8",
		strings.Repeat("[", MaxDepth+1):  "nested more than 32 deep",
	} {
		var s sample
		err := DecodeJSON([]byte(text), &s)
		if assert.Error(t, err, text) {
			assert.Contains(t, err.Error(), message, text)
		}
	}
}

// FuzzDecode: nothing panics, and encoding/json decodes an accepted text in the same way.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name":"x","count":3,"rate":1.5,"on":false,"wait":1,"list":[{"url":"a"}],"map":{"a":1}}`))
	f.Add([]byte(`{"NAME":"x"}`))
	f.Add([]byte(`{"any":[[[]],{"a":{}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s sample
		if DecodeJSON(data, &s) != nil {
			return
		}
		var std struct {
			Name *string            `json:"name"`
			Rate *float64           `json:"rate"`
			On   *bool              `json:"on"`
			Wait *float64           `json:"wait"`
			List []inner            `json:"list"`
			Map  map[string]float64 `json:"map"`
		}
		if err := json.Unmarshal(data, &std); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", data, err)
		}
		for _, pair := range [][2]any{{s.Name, std.Name}, {s.Rate, std.Rate}, {s.On, std.On}, {s.Wait.Value, std.Wait},
			{s.List, std.List}} {
			if !reflect.DeepEqual(pair[0], pair[1]) {
				t.Fatalf("%q: %v, encoding/json: %v", data, pair[0], pair[1])
			}
		}
	})
}
