// Package strictjson decodes JSON the way a contract means it: encoding/json
// takes keys in any case, the last of two equal keys, unknown keys and data
// after the value; this package refuses all of them, and names the field.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxDepth bounds the nesting of objects and arrays.
const MaxDepth = 32

// FieldError is a field that may not be as it is.
type FieldError struct {
	Field string // path, e.g. proxies[2].url; "" for the whole document
	Msg   string
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return e.Msg
	}
	return e.Field + ": " + e.Msg
}

// SyntaxError is text that is not one JSON value.
type SyntaxError struct{ Msg string }

func (e *SyntaxError) Error() string { return e.Msg }

// Decode decodes one JSON object or array into v, a pointer to a struct (or to
// a slice or map of them) with json tags. Integers may be written 3.0, as JSON
// Schema has it. Errors are *FieldError or *SyntaxError.
func Decode(data []byte, v any) error {
	tree, err := Parse(data)
	if err != nil {
		return err
	}
	return decode("", tree, reflect.ValueOf(v).Elem())
}

// Parse checks data and returns it as map[string]any (an Object), []any,
// string, json.Number, bool or nil.
func Parse(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, &SyntaxError{"the body is not valid UTF-8"}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := value(dec, "", 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, &SyntaxError{"there is more after the JSON value"}
	}
	return v, nil
}

func value(dec *json.Decoder, path string, depth int) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, syntax(err)
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if depth == MaxDepth {
		return nil, &SyntaxError{fmt.Sprintf("nested more than %d deep", MaxDepth)}
	}
	if delim == '[' {
		list := []any{}
		for dec.More() {
			item, err := value(dec, path+"["+strconv.Itoa(len(list))+"]", depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err := dec.Token()
		return list, syntax(err)
	}
	object := map[string]any{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, syntax(err)
		}
		name := key.(string)
		if _, twice := object[name]; twice {
			return nil, &FieldError{join(path, name), "appears twice"}
		}
		if object[name], err = value(dec, join(path, name), depth+1); err != nil {
			return nil, err
		}
	}
	_, err = dec.Token()
	return object, syntax(err)
}

func syntax(err error) error {
	if err == nil {
		return nil
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return &SyntaxError{"the JSON ends too early"}
	}
	var se *json.SyntaxError
	if errors.As(err, &se) {
		return &SyntaxError{fmt.Sprintf("not JSON at byte %d: %s", se.Offset, se.Error())}
	}
	return &SyntaxError{"not JSON: " + err.Error()}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// decode puts a parsed value into a Go value. A pointer stays nil when its field is
// absent. null is refused, except for a Nullable.
func decode(path string, from any, to reflect.Value) error {
	if to.Kind() == reflect.Pointer {
		to.Set(reflect.New(to.Type().Elem()))
		return decode(path, from, to.Elem())
	}
	if n, ok := to.Addr().Interface().(*Nullable); ok {
		n.Set, n.Value = true, nil
		if from == nil {
			return nil
		}
		return decode(path, from, reflect.ValueOf(&n.Value).Elem())
	}
	switch to.Kind() {
	case reflect.Struct:
		object, ok := from.(map[string]any)
		if !ok {
			return wrong(path, "an object", from)
		}
		return decodeStruct(path, object, to)
	case reflect.Map:
		object, ok := from.(map[string]any)
		if !ok {
			return wrong(path, "an object", from)
		}
		to.Set(reflect.MakeMapWithSize(to.Type(), len(object)))
		for _, key := range slices.Sorted(maps.Keys(object)) { // the fault told is always the same
			v := reflect.New(to.Type().Elem()).Elem() // addressable
			if err := decode(join(path, key), object[key], v); err != nil {
				return err
			}
			to.SetMapIndex(reflect.ValueOf(key), v)
		}
	case reflect.Slice:
		list, ok := from.([]any)
		if !ok {
			return wrong(path, "an array", from)
		}
		to.Set(reflect.MakeSlice(to.Type(), len(list), len(list)))
		for i, item := range list {
			if err := decode(path+"["+strconv.Itoa(i)+"]", item, to.Index(i)); err != nil {
				return err
			}
		}
	case reflect.String:
		s, ok := from.(string)
		if !ok {
			return wrong(path, "a string", from)
		}
		to.SetString(s)
	case reflect.Bool:
		b, ok := from.(bool)
		if !ok {
			return wrong(path, "true or false", from)
		}
		to.SetBool(b)
	case reflect.Int, reflect.Int64:
		f, err := number(path, "an integer", from)
		if err != nil {
			return err
		}
		if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return &FieldError{path, "must be an integer"}
		}
		to.SetInt(int64(f))
	case reflect.Float64:
		f, err := number(path, "a number", from)
		if err != nil {
			return err
		}
		to.SetFloat(f)
	case reflect.Interface:
		to.Set(reflect.ValueOf(&from).Elem())
	default:
		panic("strictjson: cannot decode into " + to.Type().String())
	}
	return nil
}

func decodeStruct(path string, object map[string]any, to reflect.Value) error {
	known := map[string]int{}
	for i := range to.NumField() {
		if name, _, _ := strings.Cut(to.Type().Field(i).Tag.Get("json"), ","); name != "" && name != "-" {
			known[name] = i
		}
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		i, ok := known[key]
		if !ok {
			names := slices.Sorted(maps.Keys(known))
			for _, name := range names {
				if strings.EqualFold(name, key) {
					return &FieldError{join(path, key), "unknown field; did you mean " + name + "?"}
				}
			}
			return &FieldError{join(path, key), "unknown field; there are " + strings.Join(names, ", ")}
		}
		if err := decode(join(path, key), object[key], to.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

func number(path, want string, from any) (float64, error) {
	n, ok := from.(json.Number)
	if !ok {
		return 0, wrong(path, want, from)
	}
	f, err := n.Float64()
	if err != nil || math.IsInf(f, 0) {
		return 0, &FieldError{path, "is out of the range of numbers"}
	}
	return f, nil
}

func wrong(path, want string, from any) error {
	return &FieldError{path, "must be " + want + ", not " + describe(from)}
}

func describe(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case []any:
		return "an array"
	}
	return "an object"
}

// Nullable is a number that may be absent (Set false), null (Value nil) or
// given.
type Nullable struct {
	Set   bool
	Value *float64
}
