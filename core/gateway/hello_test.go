package gateway

import (
	"bytes"
	"crypto/tls"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// clientHello returns the first bytes of Go's TLS client.
func clientHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		tls.Client(near, config).Handshake()
		near.Close()
	}()
	b := make([]byte, 64<<10)
	n, err := far.Read(b)
	require.NoError(t, err)
	return b[:n]
}

func kindOf(b []byte) helloKind {
	kind, _ := classifyHello(b)
	return kind
}

func TestClassifyAClientHello(t *testing.T) {
	whole := clientHello(t, &tls.Config{ServerName: "site.test"})
	for n := range whole {
		require.Equal(t, partialHello, kindOf(whole[:n]), "%d bytes", n)
	}
	require.Equal(t, wholeHello, kindOf(whole))
	require.Equal(t, wholeHello, kindOf(clientHello(t, &tls.Config{ServerName: "s", MaxVersion: tls.VersionTLS12})))

	// The same message in two records.
	body := whole[5:]
	split := append([]byte{22, 3, 1, 0, 100}, body[:100]...)
	split = append(split, 22, 3, 1, byte((len(body)-100)>>8), byte(len(body)-100))
	split = append(split, body[100:]...)
	require.Equal(t, wholeHello, kindOf(split))

	// The result does not change before the needed number of bytes has arrived.
	for n, needed := range map[int]int{0: 0, 4: 0, 8: 0, 9: 105, 104: 105, 105: 110, 110: len(split)} {
		_, got := classifyHello(split[:n])
		require.Equal(t, needed, got, "%d bytes", n)
	}

	// With early_data as the last extension.
	early := append(bytes.Clone(whole), 0, 42, 0, 0)
	grow := func(at, size int) { // adds the size of the extension to a length of size bytes
		n := 0
		for _, b := range early[at : at+size] {
			n = n<<8 | int(b)
		}
		n += 4
		for i := at + size - 1; i >= at; i-- {
			early[i] = byte(n)
			n >>= 8
		}
	}
	grow(3, 2) // record
	grow(6, 3) // message
	extensions := 5 + 4 + 34
	extensions += 1 + int(early[extensions])
	extensions += 2 + int(early[extensions])<<8 + int(early[extensions+1])
	extensions += 1 + int(early[extensions])
	grow(extensions, 2)
	require.Equal(t, notHello, kindOf(early))

	for name, b := range map[string][]byte{
		"http":             []byte("GET / HTTP/1.1\r\n\r\n"),
		"more behind it":   append(bytes.Clone(whole), 20, 3, 3, 0, 1, 1),
		"half of a record": append(bytes.Clone(whole), 23),
		"another message":  {22, 3, 1, 0, 4, 2, 0, 0, 0},
		"an empty record":  {22, 3, 1, 0, 0},
		"too long":         {22, 3, 1, 0x50, 0},
		"application data": {23, 3, 3, 0, 1, 0},
		"no TLS version":   {22, 2, 0, 0, 4},
		"cut inside":       {22, 3, 1, 0, 8, 1, 0, 0, 4, 3, 3, 0, 0},
	} {
		require.Equal(t, notHello, kindOf(b), name)
	}
}

// A prefix of a ClientHello is classified as partial, and a ClientHello with further bytes as no
// ClientHello.
func FuzzClassify(f *testing.F) {
	whole := clientHello(f, &tls.Config{ServerName: "site.test"})
	f.Add(whole)
	f.Add(whole[:40])
	f.Add([]byte("SSH-2.0-x\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if kindOf(b) != wholeHello {
			return
		}
		for n := range b {
			if got := kindOf(b[:n]); got != partialHello {
				t.Fatalf("%d of %d bytes: %d", n, len(b), got)
			}
		}
		if kindOf(append(bytes.Clone(b), 0)) != notHello {
			t.Fatal("a byte behind it")
		}
	})
}
