package config

import (
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
)

// decode fills the struct (or slice, map, scalar) to from a tree of TOML
// values, strictly, and reports every fault with its key. What the tree does
// not name stays as it is. Tags are koanf's.
func decode(path string, from any, to reflect.Value, fault func(key string, value any, msg string)) {
	bad := func(want string) { fault(path, from, "must be "+want) }
	switch to.Interface().(type) {
	case Duration:
		d, err := parseDuration(from)
		if err != nil {
			fault(path, from, err.Error())
			return
		}
		to.Set(reflect.ValueOf(d))
		return
	case Size:
		s, err := parseSize(from)
		if err != nil {
			fault(path, from, err.Error())
			return
		}
		to.Set(reflect.ValueOf(s))
		return
	case OwnErrors:
		if table, ok := from.(map[string]any); ok {
			from = []any{table}
		}
	}
	switch to.Kind() {
	case reflect.Pointer:
		v := reflect.New(to.Type().Elem())
		decode(path, from, v.Elem(), fault)
		to.Set(v)
	case reflect.Struct:
		table, ok := from.(map[string]any)
		if !ok {
			bad("a table")
			return
		}
		decodeStruct(path, table, to, fault)
	case reflect.Slice:
		list, ok := from.([]any)
		if !ok {
			bad("a list")
			return
		}
		out := reflect.MakeSlice(to.Type(), len(list), len(list))
		for i, v := range list {
			decode(fmt.Sprintf("%s[%d]", path, i), v, out.Index(i), fault)
		}
		to.Set(out)
	case reflect.Map:
		table, ok := from.(map[string]any)
		if !ok {
			bad("a table")
			return
		}
		out := reflect.MakeMap(to.Type())
		for _, key := range slices.Sorted(maps.Keys(table)) {
			v := reflect.New(to.Type().Elem()).Elem()
			decode(join(path, key), table[key], v, fault)
			out.SetMapIndex(reflect.ValueOf(key), v)
		}
		to.Set(out)
	case reflect.Interface:
		to.Set(reflect.ValueOf(from))
	case reflect.String:
		s, ok := from.(string)
		if !ok {
			bad("text in quotes")
			return
		}
		to.SetString(s)
	case reflect.Bool:
		b, ok := from.(bool)
		if !ok {
			bad("true or false")
			return
		}
		to.SetBool(b)
	case reflect.Int:
		n, ok := from.(int64)
		if !ok || n < math.MinInt32 || n > math.MaxInt32 {
			bad("an integer")
			return
		}
		to.SetInt(n)
	case reflect.Float64:
		switch n := from.(type) {
		case int64:
			to.SetFloat(float64(n))
		case float64:
			if math.IsNaN(n) || math.IsInf(n, 0) {
				bad("a finite number")
				return
			}
			to.SetFloat(n)
		default:
			bad("a number")
		}
	default:
		panic("config: no decoding of " + to.Type().String())
	}
}

func decodeStruct(path string, table map[string]any, to reflect.Value, fault func(string, any, string)) {
	fields := map[string]reflect.Value{}
	for i := range to.NumField() {
		if name := to.Type().Field(i).Tag.Get("koanf"); name != "" && name != "-" {
			fields[name] = to.Field(i)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		f, known := fields[key]
		if !known {
			fault(join(path, key), nil, "is unknown here; known are "+strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
			continue
		}
		decode(join(path, key), table[key], f, fault)
	}
}
