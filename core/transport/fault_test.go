package transport

import (
	"fmt"
	"io"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/retry"
)

// A connection that ends without an answer has one name in metrics and in
// Proxy-Status, by FIN as by RST.
func TestAnEndWithoutAnAnswerIsATermination(t *testing.T) {
	for _, err := range []error{clearer(io.EOF), clearer(io.ErrUnexpectedEOF), syscall.ECONNRESET, fmt.Errorf("read: %w", syscall.EPIPE)} {
		f := fault(retry.Head, err)
		require.Equal(t, "connection_terminated", f.Reason, "%v", err)
		require.False(t, f.Timeout)
	}
}
