package http1

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A head whose Connection field has thousands of names is refused, because the comparison of each name with
// each field would take long.
func TestConnectionNamesABoundedNumberOfFields(t *testing.T) {
	for n, ok := range map[int]bool{100: true, 101: false, 10_000: false} {
		head := "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: " + strings.Repeat("x,", n) + "\r\n\r\n"
		var q Request
		err := NewReader(strings.NewReader(head)).ReadRequest(&q)
		require.Equal(t, ok, err == nil, "%d: %v", n, err)
	}
}
