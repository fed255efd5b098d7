// Package sourcetest provides a registry of artifacts for tests.
package sourcetest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// Registry implements the part of the OCI distribution specification that a pull uses.
type Registry struct {
	*httptest.Server
	Token string // token that requests must contain; "" for none

	mu           sync.Mutex        // guards the fields below
	blobs        map[string][]byte // by digest
	manifests    map[string][]byte // by tag and by digest
	requestPaths []string          // paths of the requests
}

// Start starts a registry. The function start is httptest.NewServer or httptest.NewTLSServer.
func Start(t testing.TB, start func(http.Handler) *httptest.Server) *Registry {
	r := &Registry{blobs: map[string][]byte{}, manifests: map[string][]byte{}}
	r.Server = start(r)
	t.Cleanup(r.Close)
	return r
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requestPaths = append(r.requestPaths, q.URL.Path)
	if q.URL.Path == "/token" {
		json.NewEncoder(w).Encode(map[string]string{"token": r.Token})
		return
	}
	if r.Token != "" && q.Header.Get("Authorization") != "Bearer "+r.Token {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL+`/token",service="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	parts := strings.Split(q.URL.Path, "/") // "", v2, team, mine, manifests, REFERENCE
	if len(parts) != 6 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	data, kind := r.blobs[parts[5]], "application/octet-stream"
	if parts[4] == "manifests" {
		data, kind = r.manifests[parts[5]], ocispec.MediaTypeImageManifest
		w.Header().Set("Docker-Content-Digest", Digest(data))
	}
	if data == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if q.Method == http.MethodGet {
		w.Write(data)
	}
}

// Digest returns the digest of a blob as it is written in OCI references: "sha256:" and hexadecimal digits.
func Digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// File is a layer of an artifact.
type File struct {
	Title, MediaType string
	Data             []byte
}

// Push stores an artifact under a tag and returns its digest.
func (r *Registry) Push(t testing.TB, tag string, files ...File) (digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	manifest := map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest,
		"config": map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
			"digest": Digest([]byte("{}"))},
	}
	layers := []any{}
	for _, f := range files {
		r.blobs[Digest(f.Data)] = f.Data
		layers = append(layers, map[string]any{
			"mediaType": f.MediaType, "digest": Digest(f.Data), "size": len(f.Data),
			"annotations": map[string]string{ocispec.AnnotationTitle: f.Title},
		})
	}
	manifest["layers"] = layers
	text, err := json.Marshal(manifest)
	require.NoError(t, err)
	r.manifests[tag], r.manifests[Digest(text)] = text, text
	return Digest(text)
}

// SetBlob replaces the blob that is served for a digest. If data is nil, the blob is removed.
func (r *Registry) SetBlob(digest string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[digest] = data
}

// SetManifest makes a tag or a digest (reference) lead to the same manifest as another one (source).
func (r *Registry) SetManifest(reference, source string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[reference] = r.manifests[source]
}

// RequestPaths returns the paths of all requests.
func (r *Registry) RequestPaths() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requestPaths)
}
