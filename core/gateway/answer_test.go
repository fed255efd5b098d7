package gateway

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Proxy-Status names errors that RFC 9209 knows; a status is told as one.
func TestProxyErrors(t *testing.T) {
	for reason, want := range map[string]string{
		"connection_refused":    "error=connection_refused",
		"http_request_error":    "error=http_request_error",
		"http_response_timeout": "error=http_response_timeout",
		"http_502":              "error=destination_unavailable; received-status=502",
	} {
		require.Equal(t, want, string(appendProxyError(nil, reason)))
	}
}
