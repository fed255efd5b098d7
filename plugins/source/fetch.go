package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	maxSignature = 16 << 10
	maxManifest  = 1 << 20
	// fetchTimeout is the maximum duration of one call of Fetch.
	fetchTimeout = 2 * time.Minute
)

// Client fetches modules. It is safe for concurrent use.
type Client struct {
	transport http.RoundTripper
	maxBytes  int64
}

// NewClient returns a client that fetches modules of at most maxBytes. If transport is nil, the client uses the proxy
// of the environment (HTTPS_PROXY).
func NewClient(transport http.RoundTripper, maxBytes int) *Client {
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = 30 * time.Second
		transport = t
	}
	return &Client{transport, int64(maxBytes)}
}

// Fetch returns the verified module of a source (Source.Verify). Errors do not contain the query of the URL.
func (c *Client) Fetch(ctx context.Context, s Source) (*Module, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	client := &http.Client{Transport: c.transport}
	if !s.Insecure {
		client.Transport = onlyHTTPS{c.transport}
	}
	fetch := c.fetchURL
	if s.isArtifact() {
		fetch = c.fetchArtifact
	}
	m, err := fetch(ctx, client, s)
	if err != nil {
		return nil, withoutURL(err)
	}
	if err := s.Verify(m); err != nil {
		return nil, err
	}
	return m, nil
}

// onlyHTTPS refuses all requests without TLS, such as a redirect to http://.
type onlyHTTPS struct{ next http.RoundTripper }

func (o onlyHTTPS) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.URL.Scheme != "https" {
		return nil, errors.New("it leads to an address that is not https://; insecure = true permits it")
	}
	return o.next.RoundTrip(q)
}

// withoutURL returns err without parts of its text that may contain a URL.
func withoutURL(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		return failed.Err
	}
	var refused *errcode.ErrorResponse // its text contains a URL, which may be signed for this client
	if errors.As(err, &refused) {
		err = fmt.Errorf("the registry responds with status %d", refused.StatusCode)
		if len(refused.Errors) > 0 {
			err = fmt.Errorf("%w: %w", err, refused.Errors)
		}
	}
	return err
}

// fetchURL fetches the module from s.URL. If s has a public key, it also fetches the signature, a file in the same
// folder.
func (c *Client) fetchURL(ctx context.Context, client *http.Client, s Source) (*Module, error) {
	code, err := httpGet(ctx, client, s.URL, c.maxBytes)
	if err != nil || s.PublicKey == "" {
		return &Module{Code: code}, err
	}
	key, err := parseKey(s.PublicKey)
	if err != nil {
		return nil, err
	}
	signatureURL, err := url.Parse(s.URL)
	if err != nil {
		return nil, err
	}
	signatureURL.RawPath = ""
	signatureURL.Path += key.fileEnding()
	signature, err := httpGet(ctx, client, signatureURL.String(), maxSignature)
	if err != nil {
		return nil, fmt.Errorf("its signature, the file %s in the same folder: %w", key.fileEnding(), withoutURL(err))
	}
	return &Module{code, signature}, nil
}

func httpGet(ctx context.Context, client *http.Client, address string, maxBytes int64) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	r, err := client.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server responds with status %d", r.StatusCode)
	}
	if r.ContentLength > maxBytes {
		return nil, tooLarge(maxBytes)
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > maxBytes {
		return nil, tooLarge(maxBytes)
	}
	return data, nil
}

func tooLarge(maxBytes int64) error { return fmt.Errorf("it has more than %d bytes", maxBytes) }

// fetchArtifact fetches the module and, if s has a public key, the signature. Each is a layer of the artifact.
func (c *Client) fetchArtifact(ctx context.Context, client *http.Client, s Source) (*Module, error) {
	ref, err := s.artifact()
	if err != nil {
		return nil, err
	}
	repo, err := remote.NewRepository(ref.String())
	if err != nil {
		return nil, err
	}
	repo.PlainHTTP = strings.HasPrefix(s.URL, plainOCI)
	repo.Client = &auth.Client{Client: client}
	repo.MaxMetadataBytes = maxManifest
	desc, body, err := repo.Manifests().FetchReference(ctx, ref.Reference)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if desc.Size > maxManifest {
		return nil, tooLarge(maxManifest)
	}
	text, err := content.ReadAll(body, desc)
	if err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return nil, fmt.Errorf("its manifest: %w", err)
	}
	layer, err := moduleOf(manifest.Layers)
	if err != nil {
		return nil, err
	}
	m := &Module{}
	if m.Code, err = fetchLayer(ctx, repo, layer, c.maxBytes); err != nil || s.PublicKey == "" {
		return m, err
	}
	key, err := parseKey(s.PublicKey)
	if err != nil {
		return nil, err
	}
	for _, l := range manifest.Layers {
		if strings.HasSuffix(title(l), key.fileEnding()) {
			m.Signature, err = fetchLayer(ctx, repo, l, maxSignature)
			return m, err
		}
	}
	return nil, fmt.Errorf("the artifact has no file that ends in %s", key.fileEnding())
}

func fetchLayer(ctx context.Context, repo *remote.Repository, l ocispec.Descriptor, maxBytes int64) ([]byte, error) {
	if l.Size > maxBytes {
		return nil, tooLarge(maxBytes)
	}
	return content.FetchAll(ctx, repo.Blobs(), l)
}

func title(l ocispec.Descriptor) string { return l.Annotations[ocispec.AnnotationTitle] }

// moduleOf returns the layer with the module. If there are several layers, this is the only one whose media type
// contains wasm or whose file name ends in .wasm.
func moduleOf(layers []ocispec.Descriptor) (found ocispec.Descriptor, err error) {
	if len(layers) == 1 {
		return layers[0], nil
	}
	count := 0
	for _, l := range layers {
		if strings.Contains(l.MediaType, "wasm") || strings.HasSuffix(title(l), ".wasm") {
			found = l
			count++
		}
	}
	if count != 1 {
		return found, fmt.Errorf("the artifact has %d layers, and %d of them are WebAssembly; it must be one",
			len(layers), count)
	}
	return found, nil
}
