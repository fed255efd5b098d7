// Package geo finds the country of an address in an MMDB file (MaxMind DB, https://maxmind.github.io/MaxMind-DB/),
// such as GeoLite2-Country, DB-IP Lite or IPinfo Lite. No other package imports the library that reads these files.
package geo

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/oschwald/maxminddb-golang/v2"
)

// DB is an MMDB file in memory. It is safe for concurrent use.
type DB struct{ reader *maxminddb.Reader }

// Open reads an MMDB file into memory. It does not map the file, because a read from a mapped file that another
// program has truncated would end the process.
func Open(path string) (*DB, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	reader, err := maxminddb.OpenBytes(data)
	if err != nil {
		return nil, fmt.Errorf("it is not an MMDB file: %w", err)
	}
	return &DB{reader}, nil
}

// paths are the possible paths of keys to the country code (ISO 3166-1 alpha-2) in a record. The first path that leads
// to a code is used.
var paths = [][]any{
	{"country", "iso_code"},            // MaxMind, DB-IP
	{"country_code"},                   // IPinfo Lite, IP2Location
	{"country"},                        // IPinfo
	{"registered_country", "iso_code"}, // MaxMind, if the country itself is unknown
}

// Country returns the code of the country of the address a, in lower case, such as "us"; "" if the country is
// unknown.
func (d *DB) Country(a netip.Addr) string {
	found := d.reader.Lookup(a.Unmap())
	if found.Err() != nil || !found.Found() {
		return ""
	}
	for _, path := range paths {
		var code string
		if found.DecodePath(&code, path...) == nil && len(code) == 2 {
			return strings.ToLower(code)
		}
	}
	return ""
}
