package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Format returns a TOML document in the uniform form of koanf.toml: one space on each side of "=", no indentation, no
// space at the end of a line, one empty line before a table, at most one empty line elsewhere. A comment after a
// value keeps its column. Values, comments and their order do not change. Format returns an error if the document is
// not valid TOML.
func Format(doc []byte) ([]byte, error) {
	doc = bytes.ReplaceAll(bytes.TrimPrefix(doc, []byte("\ufeff")), []byte("\r\n"), []byte("\n"))
	oldValues, err := parseValues(doc)
	if err != nil {
		return nil, err
	}
	f := formatter{doc: doc, keys: map[int]keyValueRange{}}
	f.findKeys()
	out := f.format()
	newValues, err := parseValues(out)
	if err != nil || !reflect.DeepEqual(oldValues, newValues) {
		return nil, errors.New("this document cannot be formatted without a change of its values")
	}
	return out, nil
}

// parseValues returns the values of a TOML document.
func parseValues(doc []byte) (map[string]any, error) {
	tree := map[string]any{}
	err := toml.Unmarshal(doc, &tree)
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, _ := wrong.Position()
		err = fmt.Errorf("line %d: %w", line, err)
	}
	return tree, err
}

// keyValueRange has the offsets in a document at which a key, its "=" and its value begin, and the offset at which the
// value ends.
type keyValueRange struct{ key, equals, value, end int }

// formatter formats one document.
type formatter struct {
	doc  []byte
	keys map[int]keyValueRange // the map's key is the offset of the beginning of the line
}

// findKeys finds all keys in the document, with their values, and adds them to f.keys.
func (f *formatter) findKeys() {
	p := unstable.Parser{KeepComments: true}
	p.Reset(f.doc)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.KeyValue {
			continue
		}
		it := e.Key()
		it.Next()
		start := int(it.Node().Raw.Offset)
		line := bytes.LastIndexByte(f.doc[:start], '\n') + 1
		equals := start + equalsSign(f.doc[start:])
		value := equals + 1
		for f.doc[value] == ' ' || f.doc[value] == '\t' {
			value++
		}
		f.keys[line] = keyValueRange{start, equals, value, value + valueLength(f.doc[value:])}
	}
}

// equalsSign returns the offset of the "=" after the key at the beginning of text. It ignores a "=" within a quoted
// part of the key.
func equalsSign(text []byte) int {
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quote == '"' && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '=':
			return i
		}
	}
	return len(text)
}

// valueLength returns the length of the value at the beginning of text.
func valueLength(text []byte) int {
	depth, i := 0, 0
	for i < len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\'':
			i += stringLength(text[i:])
			continue
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == '#' && depth > 0: // a comment within a list
			if end := bytes.IndexByte(text[i:], '\n'); end >= 0 {
				i += end
			}
		case depth == 0 && (c == '\n' || c == '#'):
			return len(bytes.TrimRight(text[:i], " \t"))
		}
		i++
	}
	return len(bytes.TrimRight(text, " \t"))
}

// stringLength returns the length of the string at the beginning of text, with its quotes.
func stringLength(text []byte) int {
	quote := text[:1]
	if len(text) >= 3 && text[1] == quote[0] && text[2] == quote[0] {
		quote = text[:3]
	}
	for i := len(quote); i < len(text); i++ {
		if quote[0] == '"' && text[i] == '\\' {
			i++
		} else if bytes.HasPrefix(text[i:], quote) {
			end := i + len(quote)
			for len(quote) == 3 && end < len(text) && text[end] == quote[0] { // the string itself ends with quotes
				end++
			}
			return end
		}
	}
	return len(text)
}

// formattedLine is a line of the output: its text and, if a comment follows a value, this comment.
type formattedLine struct {
	text, comment string
	column        int // column of comment in the document, in bytes; 0 if there is no comment
}

// format returns the formatted document.
func (f *formatter) format() []byte {
	var lines []formattedLine
	for at := 0; at < len(f.doc); {
		line := formattedLine{}
		end := lineEnd(f.doc, at)
		if kv, ok := f.keys[at]; ok {
			key := strings.TrimSpace(string(f.doc[kv.key:kv.equals]))
			line.text = key + " = " + string(f.doc[kv.value:kv.end])
			end = lineEnd(f.doc, kv.end)
			if rest := strings.TrimSpace(string(f.doc[kv.end:end])); rest != "" {
				line.comment = rest
				line.column = kv.end - (bytes.LastIndexByte(f.doc[:kv.end], '\n') + 1) +
					strings.IndexByte(string(f.doc[kv.end:end]), '#')
			}
		} else {
			line.text = strings.TrimSpace(string(f.doc[at:end]))
		}
		lines = append(lines, line)
		at = end + 1
	}
	return join(lines)
}

// lineEnd returns the offset of the end of a line, given an offset within the line.
func lineEnd(doc []byte, at int) int {
	if end := bytes.IndexByte(doc[at:], '\n'); end >= 0 {
		return at + end
	}
	return len(doc)
}

// join returns the text of the lines, with the empty lines of the uniform form between them.
func join(lines []formattedLine) []byte {
	var out bytes.Buffer
	empty := true // the previous line is empty, or there is no previous line
	for i, line := range lines {
		if line.text == "" {
			if !empty {
				out.WriteByte('\n')
			}
			empty = true
			continue
		}
		comment := i > 0 && strings.HasPrefix(lines[i-1].text, "#")
		if strings.HasPrefix(line.text, "[") && !empty && !comment {
			out.WriteByte('\n')
		}
		out.WriteString(line.text)
		if line.comment != "" {
			last := line.text[strings.LastIndexByte(line.text, '\n')+1:]
			out.WriteString(strings.Repeat(" ", max(1, line.column-len(last))) + line.comment)
		}
		out.WriteByte('\n')
		empty = false
	}
	if out.Len() == 0 {
		return nil
	}
	return append(bytes.TrimRight(out.Bytes(), "\n"), '\n')
}
