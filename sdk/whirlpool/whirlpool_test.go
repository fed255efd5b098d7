package whirlpool_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/sdk/whirlpool"
)

func ExampleNew() {
	// One proxy responds in place of the target. Nothing listens at the address of the other proxy.
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello from ", r.Host)
	}))
	defer proxy.Close()

	t, err := whirlpool.New("127.0.0.1:1", proxy.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer t.Close()
	client := &http.Client{Transport: t}
	r, err := client.Get("http://example.org/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	fmt.Println(string(body))
	// Output: hello from example.org
}

func TestWrongProxies(t *testing.T) {
	_, err := whirlpool.New()
	require.EqualError(t, err, "at least one proxy is required")
	_, err = whirlpool.New("127.0.0.1:1", "ftp://user:hunter2@a.example:1")
	require.ErrorContains(t, err, "proxy 2: ")
	require.NotContains(t, err.Error(), "hunter2")
	same, err := whirlpool.New("127.0.0.1:1", "127.0.0.1:1")
	require.NoError(t, err)
	same.Close()
}
