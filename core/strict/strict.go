// Package strict decodes JSON and TOML without guessing: unknown keys, keys in another case, keys that appear twice,
// values of another type and values out of range are errors. Each error names the path of its key, such as
// proxies[2].url.
package strict

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// FieldError is an error in one field.
type FieldError struct {
	Field string // path, such as proxies[2].url; "" for the whole document
	Value any    // the value in the document, if it helps to explain the error; it may be a secret
	Msg   string // the requirement, such as "must be a duration"
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return e.Msg
	}
	return e.Field + ": " + e.Msg
}

// Format describes a format of documents: the words for its types in errors, and its limits.
type Format struct {
	tag                          string  // key of the struct tag that names a field
	object, array, text, boolean string  // names of the types in errors such as "must be an object"
	maxInt                       float64 // maximum of an integer; the minimum is its negative
}

// The formats.
var (
	JSON = Format{
		tag: "json", object: "an object", array: "an array", text: "a string", boolean: "true or false",
		maxInt: 1<<53 - 1,
	}
	TOML = Format{
		tag: "koanf", object: "a table", array: "a list", text: "text in quotes", boolean: "true or false",
		maxInt: math.MaxInt32,
	}
)

// WithTag returns a copy of the format in which the struct tag with the given key names a field.
func (f Format) WithTag(key string) Format {
	f.tag = key
	return f
}

// ValueDecoder is implemented by pointers to types that have a special notation in documents, such as a duration. The
// text of the error that DecodeValue returns becomes FieldError.Msg, such as "must be a duration".
type ValueDecoder interface {
	DecodeValue(from any) error
}

// Decode decodes a document into v, a pointer to a struct, slice or map. The document is a tree of map[string]any,
// []any, string, bool and numbers (json.Number, int64, float64). An integer may be written as 3.0. The tags "json"
// (JSON) or "koanf" (TOML) name the fields of the struct. A field whose key is absent from the document keeps its
// value. A tag `range:"LOW,HIGH"` limits a field that is a number, or a ValueDecoder with an integer or float as its
// underlying type. LOW and HIGH are in the notation of the field.
//
// Decode calls report with each error, in the order of the keys, until report returns false. The path in each error
// begins with the given path.
func (f Format) Decode(path string, document, v any, report func(*FieldError) (more bool)) {
	d := &decoder{Format: f, report: report}
	d.decode(path, document, reflect.ValueOf(v).Elem())
}

// decoder is the state of one Decode.
type decoder struct {
	Format
	report    func(*FieldError) bool
	errors    int
	isStopped bool
}

func (d *decoder) fail(path string, value any, msg string) {
	if !d.isStopped {
		d.errors++
		d.isStopped = !d.report(&FieldError{path, value, msg})
	}
}

func (d *decoder) failType(path, want string, from any) {
	d.fail(path, from, "must be "+want+", not "+d.typeName(from))
}

func (d *decoder) decode(path string, from any, to reflect.Value) {
	if to.Kind() == reflect.Pointer {
		to.Set(reflect.New(to.Type().Elem()))
		d.decode(path, from, to.Elem())
		return
	}
	switch v := to.Addr().Interface().(type) {
	case *Nullable:
		v.Set, v.Value = true, nil
		if from != nil {
			d.decode(path, from, reflect.ValueOf(&v.Value).Elem())
		}
		return
	case ValueDecoder:
		if err := v.DecodeValue(from); err != nil {
			d.fail(path, from, err.Error())
		}
		return
	}
	switch to.Kind() {
	case reflect.Struct:
		d.decodeStruct(path, from, to)
	case reflect.Map:
		d.decodeMap(path, from, to)
	case reflect.Slice:
		d.decodeSlice(path, from, to)
	case reflect.Interface:
		to.Set(reflect.ValueOf(&from).Elem())
	default:
		d.decodeScalar(path, from, to)
	}
}

func (d *decoder) decodeStruct(path string, from any, to reflect.Value) {
	object, ok := from.(map[string]any)
	if !ok {
		d.failType(path, d.object, from)
		return
	}
	fields := map[string]int{}
	for i := range to.NumField() {
		if name, _, _ := strings.Cut(to.Type().Field(i).Tag.Get(d.tag), ","); name != "" && name != "-" {
			fields[name] = i
		}
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if d.isStopped {
			return
		}
		i, known := fields[key]
		if !known {
			d.fail(Join(path, key), nil, unknownFieldMessage(key, slices.Sorted(maps.Keys(fields))))
			continue
		}
		before := d.errors
		d.decode(Join(path, key), object[key], to.Field(i))
		if limits := to.Type().Field(i).Tag.Get("range"); limits != "" && d.errors == before {
			d.checkRange(Join(path, key), object[key], limits, to.Field(i))
		}
	}
}

func unknownFieldMessage(key string, known []string) string {
	if similar := DidYouMean(key, known); similar != "" {
		return "unknown field" + similar
	}
	return "unknown field; there are " + strings.Join(known, ", ")
}

func (d *decoder) decodeMap(path string, from any, to reflect.Value) {
	object, ok := from.(map[string]any)
	if !ok {
		d.failType(path, d.object, from)
		return
	}
	to.Set(reflect.MakeMapWithSize(to.Type(), len(object)))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if d.isStopped {
			return
		}
		v := reflect.New(to.Type().Elem()).Elem() // addressable
		d.decode(Join(path, key), object[key], v)
		to.SetMapIndex(reflect.ValueOf(key), v)
	}
}

func (d *decoder) decodeSlice(path string, from any, to reflect.Value) {
	list, ok := from.([]any)
	if !ok {
		d.failType(path, d.array, from)
		return
	}
	to.Set(reflect.MakeSlice(to.Type(), len(list), len(list)))
	for i, item := range list {
		if d.isStopped {
			return
		}
		d.decode(path+"["+strconv.Itoa(i)+"]", item, to.Index(i))
	}
}

func (d *decoder) decodeScalar(path string, from any, to reflect.Value) {
	switch to.Kind() {
	case reflect.String:
		s, ok := from.(string)
		if !ok {
			d.failType(path, d.text, from)
			return
		}
		to.SetString(s)
	case reflect.Bool:
		b, ok := from.(bool)
		if !ok {
			d.failType(path, d.boolean, from)
			return
		}
		to.SetBool(b)
	case reflect.Int, reflect.Int64:
		if n, ok := d.number(path, "an integer", from); ok {
			if n != math.Trunc(n) || math.Abs(n) > d.maxInt {
				d.fail(path, from, "must be an integer")
				return
			}
			to.SetInt(int64(n))
		}
	case reflect.Float64:
		if n, ok := d.number(path, "a number", from); ok {
			to.SetFloat(n)
		}
	default:
		panic("strict: cannot decode into " + to.Type().String())
	}
}

// number converts a value to a finite number. If this is impossible, it reports an error.
func (d *decoder) number(path, want string, from any) (n float64, ok bool) {
	switch v := from.(type) {
	case json.Number:
		var err error
		if n, err = v.Float64(); err != nil {
			n = math.Inf(1)
		}
	case int64:
		n = float64(v)
	case float64:
		n = v
	default:
		d.failType(path, want, from)
		return 0, false
	}
	if math.IsNaN(n) || math.IsInf(n, 0) {
		d.fail(path, nil, "is out of the range of numbers")
		return 0, false
	}
	return n, true
}

// checkRange reports an error if a decoded value is outside the limits of a range tag.
func (d *decoder) checkRange(path string, from any, limits string, v reflect.Value) {
	low, high, _ := strings.Cut(limits, ",")
	if compareToLimit(v, low) < 0 || compareToLimit(v, high) > 0 {
		d.fail(path, from, fmt.Sprintf("must be %s to %s", low, high))
	}
}

// compareToLimit decodes a limit of a range tag to the type of v. It returns -1, 0 or 1 if v is below, equal to or
// above the limit.
func compareToLimit(v reflect.Value, limit string) int {
	l := reflect.New(v.Type())
	var err error
	if own, ok := l.Interface().(ValueDecoder); ok {
		err = own.DecodeValue(limit)
	} else {
		err = json.Unmarshal([]byte(limit), l.Interface())
	}
	switch {
	case err != nil:
		panic("strict: the limit " + limit + " of a range tag: " + err.Error())
	case v.CanInt():
		return cmp.Compare(v.Int(), l.Elem().Int())
	}
	return cmp.Compare(v.Float(), l.Elem().Float())
}

func (d *decoder) typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case json.Number, int64, float64:
		return "a number"
	case []any:
		return d.array
	case map[string]any:
		return d.object
	}
	return "a date or time" // only TOML has such a type
}

// Join returns the path of a key, such as "a.b" for the key "b" of the object with the path "a".
func Join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
