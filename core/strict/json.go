package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// MaxDepth is the maximum nesting of objects and arrays in JSON.
const MaxDepth = 32

// SyntaxError reports why a text is not a single JSON value.
type SyntaxError struct{ Msg string }

func (e *SyntaxError) Error() string { return e.Msg }

// DecodeJSON decodes one JSON object or array into v, as JSON.Decode does. The value null is an error, except for a
// Nullable. DecodeJSON returns the first error that it finds, a *FieldError or a *SyntaxError.
func DecodeJSON(data []byte, v any) error {
	document, err := ParseJSON(data)
	if err != nil {
		return err
	}
	JSON.Decode("", document, v, func(e *FieldError) bool {
		err = e
		return false
	})
	return err
}

// ParseJSON parses one JSON value and returns it as map[string]any, []any, string, json.Number, bool or nil. The
// error is a *FieldError or a *SyntaxError.
func ParseJSON(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, &SyntaxError{"the body is not valid UTF-8"}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := parseValue(dec, "", 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, &SyntaxError{"there is more after the JSON value"}
	}
	return v, nil
}

func parseValue(dec *json.Decoder, path string, depth int) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, syntaxError(err)
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
			item, err := parseValue(dec, path+"["+strconv.Itoa(len(list))+"]", depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err := dec.Token()
		return list, syntaxError(err)
	}
	object := map[string]any{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, syntaxError(err)
		}
		name := key.(string)
		if _, twice := object[name]; twice {
			return nil, &FieldError{Field: Join(path, name), Msg: "appears twice"}
		}
		if object[name], err = parseValue(dec, Join(path, name), depth+1); err != nil {
			return nil, err
		}
	}
	_, err = dec.Token()
	return object, syntaxError(err)
}

func syntaxError(err error) error {
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

// Nullable is a number that may be absent from the document (Set is false) or null (Value is nil).
type Nullable struct {
	Set   bool
	Value *float64
}
