package changes

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// A recorded change that does not fit the fields of the entry that the API cannot change is superseded.
func TestAChangeThatDoesNotFitItsEntry(t *testing.T) {
	entry := upstream.Spec{ID: "a", Address: upstream.Address{Scheme: upstream.HTTPS, Host: "p.test:443"}, Weight: 1}
	changed := entry
	changed.Address.Scheme = upstream.HTTP
	record := newProxyRecord(&changed)
	record.Base = baseOf(&entry)
	records := proxyRecords{"a": record}

	specs, superseded := records.apply([]upstream.Spec{entry})
	require.Equal(t, upstream.HTTP, specs[0].Address.Scheme)
	require.Empty(t, superseded)

	entry.TLS = &upstream.TLS{TLSOptions: upstream.TLSOptions{Insecure: true}} // for https:// only
	specs, superseded = records.apply([]upstream.Spec{entry})
	require.Equal(t, []upstream.Spec{entry}, specs)
	require.Equal(t, []string{proxyKey + "a"}, superseded)
}
