package changes

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// Some fields of an entry cannot be changed through the API. If such a field differs in the configuration, the recorded
// change is superseded.
func TestAChangeThatDoesNotFitItsEntry(t *testing.T) {
	entry := upstream.Spec{ID: "a", Address: upstream.Address{Scheme: upstream.HTTPS, Host: "p.test:443"}, Weight: 1}
	changed := entry
	changed.Address.Scheme = upstream.HTTP
	record := newProxyRecord(&changed)
	prints := newFingerprinter(make([]byte, 32))
	record.setEntry(&entry, prints)
	records := proxyRecords{"a": record}

	got := records.apply([]upstream.Spec{entry}, prints)
	require.Equal(t, upstream.HTTP, got.specs[0].Address.Scheme)
	require.Empty(t, got.superseded)

	insecure := &upstream.TLS{TLSOptions: upstream.TLSOptions{Insecure: true}} // for https:// only
	entry.Extras = &upstream.Extras{TLS: insecure}
	got = records.apply([]upstream.Spec{entry}, prints)
	require.Equal(t, []upstream.Spec{entry}, got.specs)
	require.Equal(t, []string{proxyKey + "a"}, got.superseded)
}
