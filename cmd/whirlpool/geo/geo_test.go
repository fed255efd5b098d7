package geo_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/geo"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/geo/geotest"
)

func TestCountries(t *testing.T) {
	us := mmdbtype.Map{"iso_code": mmdbtype.String("US")}
	db, err := geo.Open(geotest.WriteRecords(t, map[string]mmdbtype.DataType{
		"192.0.2.0/24": mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("DE")},
			"registered_country": us},
		"198.51.100.0/24": mmdbtype.Map{"registered_country": us},
		"203.0.113.0/25":  mmdbtype.Map{"country": mmdbtype.String("FR")},
		"203.0.113.128/25": mmdbtype.Map{"country": mmdbtype.String("Norway"),
			"country_code": mmdbtype.String("NO")},
		"2001:db8::/32": mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("JP")}},
		"10.0.0.0/8":    mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.Uint32(7)}},
	}))
	require.NoError(t, err)
	for address, want := range map[string]string{
		"192.0.2.1": "de", "::ffff:192.0.2.1": "de", "198.51.100.9": "us", "203.0.113.1": "fr", "203.0.113.200": "no",
		"2001:db8::1": "jp", "10.1.2.3": "", "8.8.8.8": "", "2001:4860::1": "",
	} {
		require.Equal(t, want, db.Country(netip.MustParseAddr(address)), address)
	}
	require.Empty(t, db.Country(netip.Addr{}))
}

func TestOpenFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.mmdb")
	_, err := geo.Open(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(path, []byte("1.2.3.4,us\n"), 0o600))
	_, err = geo.Open(path)
	require.ErrorContains(t, err, "not an MMDB file")
}
