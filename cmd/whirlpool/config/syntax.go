package config

import (
	"bytes"
	"errors"
	"regexp"

	tomlparser "github.com/knadh/koanf/parsers/toml/v2"
	"github.com/pelletier/go-toml/v2"
)

// maxSyntaxFaults is the maximum number of syntax errors that are reported.
const maxSyntaxFaults = 20

var (
	keyLine = regexp.MustCompile(`^[ \t]*[A-Za-z0-9_.-]+[ \t]*=`)
	// statementLine matches a line that begins a statement (a key, a table or a comment), and an empty line.
	statementLine = regexp.MustCompile(`^[ \t]*(?:[A-Za-z0-9_.-]+[ \t]*=|#|\[|$)`)
	headerLine    = regexp.MustCompile(`^[ \t]*\[\[?[A-Za-z0-9_.-]+\]\]?[ \t]*(?:#.*)?$`)
)

// parseTOML parses a document, and adds a fault for each syntax error. The parser stops at the first error. To find the
// next one, parseTOML removes the statement with the error, and parses the document again. At the end it returns the
// values of the other statements, and sets l.lines. It returns nil if the lines before an error are not valid TOML by
// themselves: a bracket or quote that was opened there may be the cause.
func (l *loader) parseTOML(doc []byte) map[string]any {
	lines := bytes.Split(bytes.ReplaceAll(doc, []byte("\r\n"), []byte("\n")), []byte("\n"))
	for n := 0; ; n++ {
		text := bytes.Join(lines, []byte("\n"))
		tree, err := tomlparser.Parser().Unmarshal(text)
		if err == nil {
			l.lines = keyLines(text)
			return tree
		}
		l.addSyntaxFault(err)
		at := syntaxLine(err)
		if at == 0 || at > len(lines) || n+1 == maxSyntaxFaults {
			return nil
		}
		if _, err := tomlparser.Parser().Unmarshal(bytes.Join(lines[:at-1], []byte("\n"))); err != nil {
			return nil
		}
		removeStatement(lines, at-1)
	}
}

// syntaxLine returns the line of a syntax error; 0 if it is unknown.
func syntaxLine(err error) (line int) {
	var d *toml.DecodeError
	if errors.As(err, &d) {
		line, _ = d.Position()
	}
	return line
}

// removeStatement makes the line with index i empty. If the statement may continue in the lines after it,
// removeStatement makes all lines before the next table header empty.
func removeStatement(lines [][]byte, i int) {
	if keyLine.Match(lines[i]) && (i+1 == len(lines) || statementLine.Match(lines[i+1])) {
		lines[i] = nil
		return
	}
	for lines[i] = nil; i+1 < len(lines) && !headerLine.Match(lines[i+1]); i++ {
		lines[i+1] = nil
	}
}
