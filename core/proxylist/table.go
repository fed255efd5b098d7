package proxylist

import (
	"encoding/csv"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// tableHeader is the header of a table: the meaning of each column.
type tableHeader struct {
	separator rune
	columns   []field
	options   []string // name of the option that each column has; "" for none; nil for a table without a column url
	// protocols is set if each column has the addresses of a protocol, such as SOCKS5. A row then has several proxies.
	protocols bool
}

// columnURL is the name of a column. A table with this column may also have columns that are named like the options of
// a line. The API exports such tables.
const columnURL = "url"

// columnID is the name of a column with ids.
const columnID = "id"

// columnMetadata is the name of a column with metadata in the form NAME=VALUE&NAME=VALUE.
const columnMetadata = "metadata"

// Columns returns the names of the columns that a table may have in addition to the column "url".
func Columns() []string {
	return []string{columnID, "region", "tags", "weight", "cost", "max_in_flight", "rate", "min_interval",
		"bytes_per_day", "tier", "vendor", "cost_per_request", "cost_per_gb", "auth", "reuse", columnMetadata}
}

// parseHeader returns the table that begins with a header line, or nil if the line is not a header. A header has at
// least two columns. It names a URL, or a host with a port, a protocol or a password, or only protocols. Host and port
// may be one column, such as ip:port.
func parseHeader(line string) *tableHeader {
	for _, separator := range []rune{',', ';', '\t', '|'} {
		if !strings.ContainsRune(line, separator) {
			continue
		}
		names := splitCells(line, separator)
		t := &tableHeader{separator: separator, columns: make([]field, len(names)), protocols: true}
		hasHost, hasPort, hasURL := false, false, false
		for i, name := range names {
			t.columns[i] = fieldOf(name)
			t.protocols = t.protocols && t.columns[i] >= fieldHTTP
			hasHost = hasHost || t.columns[i] == fieldHost
			hasPort = hasPort || t.columns[i] == fieldPort || t.columns[i] >= fieldSOCKSPort ||
				t.columns[i] == fieldHost && strings.Contains(strings.ToLower(name), "port")
			hasURL = hasURL || t.columns[i] == fieldURL
		}
		if hasURL {
			t.options = optionsOf(names)
		}
		more := slices.Contains(t.columns, fieldProtocol) || slices.Contains(t.columns, fieldPassword)
		// If there is no column of ports, the address contains the port.
		if hasHost && (hasPort || more) || hasURL || t.protocols {
			return t
		}
	}
	return nil
}

// optionsOf returns, for each column, the name of its option; "" for none. If there is no column "url", it returns nil.
func optionsOf(names []string) []string {
	options := make([]string, len(names))
	hasURL := false
	for i, name := range names {
		name = strings.ToLower(strings.TrimSpace(name))
		hasURL = hasURL || name == columnURL
		if slices.Contains(Columns(), name) {
			options[i] = name
		}
	}
	if !hasURL {
		return nil
	}
	return options
}

// splitRow splits a line into its cells. A cell may be in double quotes (RFC 4180).
func splitRow(line string, separator rune) ([]string, error) {
	r := csv.NewReader(strings.NewReader(line))
	r.Comma, r.LazyQuotes, r.TrimLeadingSpace, r.FieldsPerRecord = separator, true, separator != '\t', -1
	return r.Read()
}

// protocolOf returns the scheme of the proxies in a column of a table with protocols.
func (t *tableHeader) protocolOf(column int) string {
	switch t.columns[column] {
	case fieldSOCKS5:
		return upstream.SOCKS5
	case fieldSOCKS4:
		return upstream.SOCKS4
	}
	return upstream.HTTP
}

// parseRow parses a row of the table. A row without a protocol gets the given scheme.
func (t *tableHeader) parseRow(line, scheme string) (spec upstream.Spec, err error) {
	var v fieldValues
	cells := splitCells(line, t.separator)
	cells = cells[:min(len(cells), len(t.columns))]
	for i, cell := range cells {
		if t.columns[i] == fieldLogin {
			v.setLogin(cell)
		}
		v.set(t.columns[i], cell)
	}
	if spec, err = v.spec(scheme); err != nil || t.options == nil {
		return spec, err
	}
	for i, cell := range cells {
		if err := setColumn(&spec, t.options[i], cell); err != nil {
			return spec, err
		}
	}
	return spec, nil
}

// setColumn sets the option with the given name to the value in a cell. If name is "", the column has no option.
func setColumn(spec *upstream.Spec, name, cell string) error {
	if text, ok := strings.CutPrefix(cell, "'"); ok && text != "" && strings.ContainsRune("=+-@", rune(text[0])) {
		cell = text // an export puts the apostrophe there, so that a spreadsheet does not take the text as a formula
	}
	switch {
	case name == "" || cell == "" || name == "auth" && cell != upstream.AuthDigest:
		return nil
	case name != columnMetadata:
		return setOption(spec, name, cell)
	}
	values, err := url.ParseQuery(cell)
	if err != nil {
		return errors.New("the column metadata is not NAME=VALUE&NAME=VALUE")
	}
	spec.ChangeExtras(func(e *upstream.Extras) {
		for name := range values {
			setMetadata(e, name, values.Get(name))
		}
	})
	return nil
}
