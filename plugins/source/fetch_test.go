package source

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/plugins/source/sourcetest"
)

const most = 1000 // maximum size of a module, bytes

// site starts a web server with the module and its signatures.
func site(t *testing.T, files map[string]string) *httptest.Server {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		text, ok := files[q.URL.Path]
		switch {
		case strings.HasPrefix(text, "-> "):
			http.Redirect(w, q, text[3:], http.StatusFound)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		default:
			if q.URL.Path == "/endless.wasm" {
				w.(http.Flusher).Flush() // no Content-Length
			}
			io.WriteString(w, text)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestFetchURL(t *testing.T) {
	mini, cos := minisigner(t), cosigner(t)
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(code) }))
	defer plain.Close()
	files := map[string]string{
		"/m.wasm": string(code), "/m.wasm.minisig": mini.signature, "/m.wasm.sig": cos.signature,
		"/moved.wasm": "-> /m.wasm", "/loop.wasm": "-> /loop.wasm", "/down.wasm": "-> " + plain.URL + "/m.wasm",
		"/unsigned.wasm": string(code), "/large.wasm": strings.Repeat("x", most+1),
		"/endless.wasm": strings.Repeat("x", most+1), "/full.wasm": strings.Repeat("x", most),
		"/bigsig.wasm": string(code), "/bigsig.wasm.minisig": strings.Repeat("x", maxSignature+1),
	}
	s := site(t, files)
	c := NewClient(s.Client().Transport, most)
	for _, x := range []struct {
		name   string
		path   string
		source Source
		says   string // "" for success
	}{
		{"sum", "/m.wasm", Source{SHA256: codeSum}, ""},
		{"minisign", "/m.wasm", Source{PublicKey: mini.public}, ""},
		{"minisign with a query", "/m.wasm?token=secret", Source{PublicKey: mini.public}, ""},
		{"cosign", "/m.wasm", Source{PublicKey: cos.public}, ""},
		{"insecure", "/m.wasm", Source{Insecure: true}, ""},
		{"redirect", "/moved.wasm", Source{SHA256: codeSum}, ""},
		{"the largest", "/full.wasm", Source{Insecure: true}, ""},
		{"redirect to http, insecure", "/down.wasm", Source{Insecure: true}, ""},

		{"another sum", "/m.wasm", Source{SHA256: otherSum}, "another SHA-256: " + codeSum},
		{"another key", "/m.wasm", Source{PublicKey: minisigner(t).public}, "does not match"},
		{"no signature", "/unsigned.wasm", Source{PublicKey: mini.public},
			"its signature, the file .minisig in the same folder: the server responds with status 404"},
		{"large signature", "/bigsig.wasm", Source{PublicKey: mini.public}, "more than 16384 bytes"},
		{"redirect to http", "/down.wasm", Source{SHA256: codeSum}, "not https://"},
		{"redirects without end", "/loop.wasm", Source{SHA256: codeSum}, "10 redirects"},
		{"not there", "/none.wasm?token=secret", Source{SHA256: codeSum}, "status 404"},
		{"large", "/large.wasm", Source{SHA256: codeSum}, "more than 1000 bytes"},
		{"large, of unknown length", "/endless.wasm", Source{SHA256: codeSum}, "more than 1000 bytes"},
		{"unverified", "/m.wasm", Source{}, "nothing verifies"},
	} {
		x.source.URL = s.URL + x.path
		m, err := c.Fetch(context.Background(), x.source)
		if x.says == "" {
			require.NoError(t, err, x.name)
			require.Equal(t, x.source.PublicKey != "", m.Signature != nil, x.name)
			continue
		}
		require.ErrorContains(t, err, x.says, x.name)
		require.NotContains(t, err.Error(), "secret", x.name)
		require.NotContains(t, err.Error(), s.URL, x.name)
	}

	s.Close()
	_, err := c.Fetch(context.Background(), Source{URL: s.URL + "/m.wasm?token=secret", SHA256: codeSum})
	require.ErrorContains(t, err, "refused")
	require.NotContains(t, err.Error(), "secret")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = c.Fetch(ctx, Source{URL: s.URL + "/m.wasm", SHA256: codeSum})
	require.ErrorIs(t, err, context.Canceled)
}

func layer(title, mediaType string, data []byte) sourcetest.File {
	return sourcetest.File{Title: title, MediaType: mediaType, Data: data}
}

func TestFetchArtifact(t *testing.T) {
	mini := minisigner(t)
	r := sourcetest.Start(t, httptest.NewTLSServer)
	host := strings.TrimPrefix(r.URL, "https://")
	wasm := layer("mine.wasm", "application/wasm", code)
	signed := r.Push(t, "signed", wasm, layer("mine.wasm.minisig", "text/plain", []byte(mini.signature)),
		layer("README.md", "text/plain", []byte("x")))
	single := r.Push(t, "single", layer("", "application/vnd.oci.image.layer.v1.tar", code))
	named := r.Push(t, "named", layer("mine.wasm", "application/octet-stream", code), layer("x", "text/plain", nil))
	two := r.Push(t, "two", wasm, layer("other.wasm", "application/wasm", []byte("x")))
	none := r.Push(t, "none", layer("a", "text/plain", []byte("x")), layer("b", "text/plain", []byte("y")))
	empty := r.Push(t, "empty")
	large := r.Push(t, "large", layer("mine.wasm", "application/wasm", make([]byte, most+1)))
	damaged := r.Push(t, "damaged", layer("mine.wasm", "application/wasm", []byte("whole")))
	r.SetBlob(sourcetest.Digest([]byte("whole")), []byte("wrong"))
	absent := r.Push(t, "absent", layer("mine.wasm", "application/wasm", []byte("absent")))
	r.SetBlob(sourcetest.Digest([]byte("absent")), nil)
	forged := r.Push(t, "forged", wasm)
	r.SetManifest(forged, "single") // replaces the manifest of this digest by another one

	c := NewClient(r.Client().Transport, most)
	for _, x := range []struct {
		name, ref string
		source    Source
		says      string // "" for success
	}{
		{"digest", "@" + single, Source{}, ""},
		{"tag and digest", ":other@" + single, Source{}, ""},
		{"by the name of the file", "@" + named, Source{}, ""},
		{"tag and sum", ":signed", Source{SHA256: codeSum}, ""},
		{"tag and key", ":signed", Source{PublicKey: mini.public}, ""},
		{"digest and key", "@" + signed, Source{PublicKey: mini.public}, ""},
		{"unverified tag", ":single", Source{Insecure: true}, ""},

		{"another sum", "@" + single, Source{SHA256: otherSum}, "another SHA-256"},
		{"another key", ":signed", Source{PublicKey: minisigner(t).public}, "does not match"},
		{"no signature", "@" + single, Source{PublicKey: mini.public}, "no file that ends in .minisig"},
		{"two modules", "@" + two, Source{}, "2 of them are WebAssembly"},
		{"no module", "@" + none, Source{}, "0 of them are WebAssembly"},
		{"no layers", "@" + empty, Source{}, "has 0 layers"},
		{"large", "@" + large, Source{}, "more than 1000 bytes"},
		{"damaged", "@" + damaged, Source{}, "mismatch"},
		{"absent blob", "@" + absent, Source{}, "not found"},
		{"forged", "@" + forged, Source{}, "mismatch"},
		{"unknown tag", ":nope", Source{Insecure: true}, "not found"},
		{"unknown digest", "@" + sourcetest.Digest([]byte("?")), Source{}, "not found"},
	} {
		x.source.URL = "oci://" + host + "/team/mine" + x.ref
		m, err := c.Fetch(context.Background(), x.source)
		if x.says == "" {
			require.NoError(t, err, x.name)
			require.Equal(t, code, m.Code, x.name)
		} else {
			require.ErrorContains(t, err, x.says, x.name)
		}
	}
	_, err := NewClient(nil, most).Fetch(context.Background(), Source{URL: "oci://" + host + "/team/mine@" + single})
	require.ErrorContains(t, err, "certificate", "the certificate of the registry is verified")
}

// Docker Hub and ghcr.io require a token for public artifacts, and give a token to everybody. The registry of this
// test does the same. A registry without TLS is used only if that is permitted.
func TestKindsOfRegistries(t *testing.T) {
	r := sourcetest.Start(t, httptest.NewServer)
	r.Token = "of-everybody"
	single := r.Push(t, "1", layer("mine.wasm", "application/wasm", code))
	host := strings.TrimPrefix(r.URL, "http://")
	c := NewClient(nil, most)
	m, err := c.Fetch(context.Background(), Source{URL: "oci+http://" + host + "/team/mine@" + single, Insecure: true})
	require.NoError(t, err)
	require.Equal(t, code, m.Code)
	require.Contains(t, r.RequestPaths(), "/token")
	_, err = c.Fetch(context.Background(), Source{URL: "oci+http://" + host + "/team/mine@" + single})
	require.ErrorContains(t, err, "insecure = true")
	_, err = c.Fetch(context.Background(), Source{URL: "oci://" + host + "/team/mine@" + single})
	require.Error(t, err)

	// A registry with TLS must not redirect the client to an address without TLS.
	secured := sourcetest.Start(t, httptest.NewTLSServer)
	secured.Push(t, "1", layer("mine.wasm", "application/wasm", code))
	secured.Token = "x"
	secured.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL+`/token",service="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	asked := len(r.RequestPaths())
	_, err = NewClient(secured.Client().Transport, most).Fetch(context.Background(),
		Source{URL: "oci://" + strings.TrimPrefix(secured.URL, "https://") + "/team/mine@" + single})
	require.ErrorContains(t, err, "http but registry was contacted over https")
	require.Len(t, r.RequestPaths(), asked)
}

// Registries redirect clients to storage with a signed URL. Errors do not contain this URL.
func TestASignedURLOfARegistry(t *testing.T) {
	r := sourcetest.Start(t, httptest.NewServer)
	single := r.Push(t, "1", layer("mine.wasm", "application/wasm", code))
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.URL.Path == "/storage":
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"errors": [{"code": "DENIED", "message": "too late"}]}`)
		case strings.Contains(q.URL.Path, "/blobs/"):
			http.Redirect(w, q, "/storage?signature=secret", http.StatusTemporaryRedirect)
		default:
			r.ServeHTTP(w, q)
		}
	})
	_, err := NewClient(nil, most).Fetch(context.Background(),
		Source{URL: "oci+http://" + strings.TrimPrefix(r.URL, "http://") + "/team/mine@" + single, Insecure: true})
	require.EqualError(t, err, "the registry responds with status 403: denied: too late")
}
