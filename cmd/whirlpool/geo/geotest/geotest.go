// Package geotest writes MMDB files for tests.
package geotest

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/stretchr/testify/require"
	"go4.org/netipx"
)

// Write writes an MMDB file in the form of GeoLite2-Country, and returns its path. The keys of countries are networks,
// and the values are country codes.
func Write(t testing.TB, countries map[string]string) string {
	records := map[string]mmdbtype.DataType{}
	for network, code := range countries {
		records[network] = mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(code)}}
	}
	return WriteRecords(t, records)
}

// WriteRecords writes an MMDB file with records of any form, and returns its path. The keys of records are networks.
func WriteRecords(t testing.TB, records map[string]mmdbtype.DataType) string {
	tree, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-Country", IncludeReservedNetworks: true})
	require.NoError(t, err)
	for network, record := range records {
		require.NoError(t, tree.Insert(netipx.PrefixIPNet(netip.MustParsePrefix(network)), record))
	}
	path := filepath.Join(t.TempDir(), "country.mmdb")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	_, err = tree.WriteTo(f)
	require.NoError(t, err)
	return path
}
