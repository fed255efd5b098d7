package socks5

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseRequest(t *testing.T) {
	for message, want := range map[string]string{
		"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50":                       "127.0.0.1:80",
		"\x05\x01\x00\x03\x01a\x01\xbb":                                  "a:443",
		"\x05\x01\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x01": "[::1]:1",
	} {
		target, n, err := ParseRequest([]byte(message + "more"))
		require.NoError(t, err)
		require.Equal(t, want, target)
		require.Equal(t, len(message), n)
		for i := range message {
			_, _, err := ParseRequest([]byte(message[:i]))
			require.ErrorIs(t, err, ErrIncomplete, "%q", message[:i])
		}
	}
	for message, reply := range map[string]Reply{
		"\x04\x01\x00\x50": GeneralFailure,
		"\x05\x02":         CommandNotSupported,
		"\x05\x01\x00\x05\x00\x00\x00\x00\x00\x00": AddressNotSupported,
	} {
		var bad *RequestError
		_, _, err := ParseRequest([]byte(message))
		require.ErrorAs(t, err, &bad)
		require.Equal(t, reply, bad.Reply)
		require.NotEmpty(t, err.Error())
	}
}

func TestParseCredentials(t *testing.T) {
	message := "\x01\x03ann\x04p:w!"
	name, password, n, err := ParseCredentials([]byte(message + "\x05"))
	require.NoError(t, err)
	require.Equal(t, []any{"ann", "p:w!", len(message)}, []any{name, password, n})
	for i := range message {
		_, _, _, err := ParseCredentials([]byte(message[:i]))
		require.ErrorIs(t, err, ErrIncomplete, "%q", message[:i])
	}
	_, _, _, err = ParseCredentials([]byte("\x05\x03ann\x04p:w!"))
	require.Error(t, err)
}

func TestParseTokens(t *testing.T) {
	message := string(AppendTokens(nil, []byte(strings.Repeat("t", 300))))
	tokens, n, err := ParseTokens([]byte(message + "\x05"))
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("t", 300), string(tokens))
	require.Equal(t, len(message), n)
	for i := range message {
		_, _, err := ParseTokens([]byte(message[:i]))
		require.ErrorIs(t, err, ErrIncomplete, "%q", message[:i])
	}
	for _, bad := range []string{"\x05\x00\x01t", "\x01\x04\x01", "\x01\xff\xff"} {
		_, _, err := ParseTokens([]byte(bad))
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrIncomplete, "%q", bad)
	}
}

// FuzzParse: a parser consumes at most MaxMessage bytes, and what it consumes does not
// depend on the bytes that follow; a target is a host and a port.
func FuzzParse(f *testing.F) {
	for _, b := range []string{"\x05\x02\x00\x02", "\x01\x03ann\x04p:w!", "\x05\x01\x00\x03\x01a\x01\xbb",
		"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x01\x00\x04", "\x01\x00\x02tt", ""} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, parse := range map[string]func([]byte) (string, int, error){
			"methods": func(b []byte) (string, int, error) {
				m, n, err := ParseMethods(b)
				return string(m), n, err
			},
			"credentials": func(b []byte) (string, int, error) {
				name, password, n, err := ParseCredentials(b)
				return name + "\x00" + password, n, err
			},
			"tokens": func(b []byte) (string, int, error) {
				tokens, n, err := ParseTokens(b)
				return string(tokens), n, err
			},
			"request": ParseRequest,
		} {
			got, n, err := parse(b)
			if err != nil {
				if errors.Is(err, ErrIncomplete) && len(b) >= MaxMessage {
					t.Fatalf("%s: %d bytes are incomplete", name, len(b))
				}
				continue
			}
			if n > len(b) || n > MaxMessage {
				t.Fatalf("%s: %d of %d bytes", name, n, len(b))
			}
			again, m, err := parse(b[:n:n])
			if err != nil || again != got || m != n {
				t.Fatalf("%s: %q %d, without the bytes behind %q %d %v", name, got, n, again, m, err)
			}
			if name != "request" || b[3] == Name {
				continue
			}
			host, port, err := net.SplitHostPort(got)
			if p, e := strconv.ParseUint(port, 10, 16); err != nil || e != nil || net.ParseIP(host) == nil {
				t.Fatalf("%q: %q %d %v", got, host, p, err)
			}
		}
	})
}
