package proxylist

import (
	"encoding/csv"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// table is the header of a table: the meaning of each column.
type table struct {
	separator rune
	columns   []field
}

// parseHeader returns the table that begins with a header line, or nil if the line is no header. A header has at
// least two columns. Their names include a host and a port or a protocol, such as ip:port, or they include a URL.
func parseHeader(line string) *table {
	for _, separator := range []rune{',', ';', '\t', '|'} {
		if !strings.ContainsRune(line, separator) {
			continue
		}
		names := splitCells(line, separator)
		t := &table{separator: separator, columns: make([]field, len(names))}
		host, port, url := false, false, false
		for i, name := range names {
			t.columns[i] = fieldOf(name)
			host = host || t.columns[i] == fieldHost
			port = port || t.columns[i] == fieldPort || t.columns[i] >= fieldSOCKSPort ||
				t.columns[i] == fieldHost && strings.Contains(strings.ToLower(name), "port")
			url = url || t.columns[i] == fieldURL
		}
		protocol := slices.Contains(t.columns, fieldProtocol)
		if host && (port || protocol) || url { // if there is no port column, the address contains the port
			return t
		}
	}
	return nil
}

// splitRow splits a line into its cells. A cell may be in double quotes (RFC 4180).
func splitRow(line string, separator rune) ([]string, error) {
	r := csv.NewReader(strings.NewReader(line))
	r.Comma, r.LazyQuotes, r.TrimLeadingSpace, r.FieldsPerRecord = separator, true, separator != '\t', -1
	return r.Read()
}

// parseRow parses a row of the table. The parameter scheme is the scheme of a row without a protocol.
func (t *table) parseRow(line, scheme string) (spec upstream.Spec, err error) {
	var v values
	for i, cell := range splitCells(line, t.separator) {
		if i < len(t.columns) {
			if t.columns[i] == fieldLogin {
				v.setLogin(cell)
			}
			v.set(t.columns[i], cell)
		}
	}
	return v.spec(scheme)
}
