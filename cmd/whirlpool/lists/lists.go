// Package lists fetches proxy lists by URL and keeps them up to date.
package lists

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/state"
)

const (
	// MaxBytes is the maximum size of a list after decompression.
	MaxBytes = 64 << 20
	// fetchTimeout limits one fetch.
	fetchTimeout = 2 * time.Minute
	// firstRetry is the wait after a fetch that failed. It doubles with each further failure, up to the refresh
	// interval of the list.
	firstRetry = 5 * time.Second
)

// Source describes a list.
type Source struct {
	URL     string        // http:// or https://
	Scheme  string        // scheme of the proxies in lines without one; "" for http
	Refresh time.Duration // from one fetch to the next, > 0
}

// Check returns an error if the URL cannot be the URL of a list. The error does not quote the URL, which
// may contain a secret.
func (s *Source) Check() error {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "" {
		return errors.New("must be an absolute http:// or https:// URL")
	}
	return nil
}

// Redacted returns the URL with its user information and its query masked.
func Redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "***"
	}
	if u.User != nil {
		u.User = url.User("***")
	}
	u.Fragment, u.RawFragment = "", ""
	query := ""
	if u.RawQuery != "" || u.ForceQuery {
		query, u.RawQuery, u.ForceQuery = "?***", "", false
	}
	text := u.Scheme + "://"
	if u.User != nil {
		text += "***@"
	}
	return text + u.Host + u.EscapedPath() + query
}

// Fetcher keeps the latest good version of each list. It is safe for concurrent use.
type Fetcher struct {
	client  *http.Client
	dir     string // folder of the last good versions; "" to keep none
	log     *slog.Logger
	changed chan struct{} // receives an element after a list has changed

	mu      sync.Mutex
	running map[Source]context.CancelFunc
	data    map[string][]byte // by URL
	wg      sync.WaitGroup
}

// NewFetcher returns a fetcher without lists. It connects through transport; nil stands for the default, which uses
// the proxy of the environment (HTTPS_PROXY). It keeps the last good version of each list in the folder dir, so that
// it is in use after a restart; "" keeps none.
func NewFetcher(transport http.RoundTripper, dir string, log *slog.Logger) *Fetcher {
	return &Fetcher{client: newClient(transport), dir: dir, log: log, changed: make(chan struct{}, 1),
		running: map[Source]context.CancelFunc{}, data: map[string][]byte{}}
}

// newClient returns a client that follows a redirect from https:// only to https://.
func newClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = 30 * time.Second
		transport = t
	}
	return &http.Client{Transport: transport, CheckRedirect: func(q *http.Request, via []*http.Request) error {
		if len(via) > 5 {
			return errors.New("there are more than 5 redirects")
		}
		if via[0].URL.Scheme == "https" && q.URL.Scheme != "https" {
			return errors.New("it leads to an address that is not https://")
		}
		return nil
	}}
}

// Changed returns a channel that receives an element after lists have changed.
func (f *Fetcher) Changed() <-chan struct{} { return f.changed }

// Data returns the latest good version of each list that was fetched, by URL. The caller must not change it.
func (f *Fetcher) Data() map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.data)
}

// Use replaces the lists. It fetches each new list at once, and uses its kept version until then. It drops the
// versions of lists that are not in sources.
func (f *Fetcher) Use(sources []Source) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keep, urls := map[Source]bool{}, map[string]bool{}
	for _, s := range sources {
		keep[s], urls[s.URL] = true, true
	}
	for s, stop := range f.running {
		if !keep[s] {
			stop()
			delete(f.running, s)
		}
	}
	maps.DeleteFunc(f.data, func(u string, _ []byte) bool {
		if urls[u] {
			return false
		}
		if f.dir != "" {
			_ = os.Remove(f.file(u)) // if this fails, the file stays, but nothing reads it
		}
		return true
	})
	for s := range keep {
		if f.running[s] == nil {
			f.restore(s.URL)
			ctx, stop := context.WithCancel(context.Background())
			f.running[s] = stop
			f.wg.Go(func() { f.follow(ctx, s) })
		}
	}
}

// Close ends all fetches and waits until they have ended.
func (f *Fetcher) Close() {
	f.mu.Lock()
	for _, stop := range f.running {
		stop()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// follow fetches a list at its refresh interval until ctx ends.
func (f *Fetcher) follow(ctx context.Context, s Source) {
	var v version
	failures := 0
	for {
		wait := s.Refresh
		changed, err := v.update(ctx, f.client, s)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = min(firstRetry<<min(failures, 20), s.Refresh)
			failures++
			f.log.Warn("a proxy list was not fetched; its last good version stays in use",
				slog.String("list", Redacted(s.URL)), slog.Any("error", err), slog.String("next", wait.String()))
		default:
			failures = 0
			if changed {
				f.store(ctx, s.URL, v.data)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// store keeps a new version of a list, unless ctx has ended.
func (f *Fetcher) store(ctx context.Context, address string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || bytes.Equal(f.data[address], data) {
		return
	}
	f.data[address] = data
	f.signal()
	if err := f.keep(address, data); err != nil {
		f.log.Warn("a proxy list was not kept for the next start", slog.String("list", Redacted(address)),
			slog.Any("error", err))
	}
}

// signal makes Changed receive an element.
func (f *Fetcher) signal() {
	select {
	case f.changed <- struct{}{}:
	default: // the receiver has not received the last change yet
	}
}

// file returns the file of the kept version of a list.
func (f *Fetcher) file(address string) string {
	sum := sha256.Sum256([]byte(address))
	return filepath.Join(f.dir, hex.EncodeToString(sum[:16])+".txt")
}

// keep writes a version of a list to its file, which only its owner can read.
func (f *Fetcher) keep(address string, data []byte) error {
	if f.dir == "" {
		return nil
	}
	if err := state.MakeDir(f.dir); err != nil {
		return err
	}
	return state.WriteFile(state.OS{}, f.file(address), data)
}

// restore uses the kept version of a list that has no data yet. The caller holds mu.
func (f *Fetcher) restore(address string) {
	if f.dir == "" || f.data[address] != nil {
		return
	}
	data, err := os.ReadFile(f.file(address))
	switch {
	case err == nil:
		f.data[address] = data
		f.signal()
	case !errors.Is(err, fs.ErrNotExist):
		f.log.Warn("the kept version of a proxy list cannot be read", slog.String("list", Redacted(address)),
			slog.Any("error", err))
	}
}

// version is a version of a list with its validators (RFC 9110 section 8.8).
type version struct {
	data               []byte
	etag, lastModified string
}

// update fetches the list if it has changed. If there is an error, or if the response contains no proxy
// (an error page, for example), the version does not change.
func (v *version) update(ctx context.Context, client *http.Client, s Source) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		return false, withoutURL(err)
	}
	if v.etag != "" {
		q.Header.Set("If-None-Match", v.etag)
	}
	if v.lastModified != "" {
		q.Header.Set("If-Modified-Since", v.lastModified)
	}
	r, err := client.Do(q)
	if err != nil {
		return false, withoutURL(err)
	}
	defer r.Body.Close()
	switch r.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		return false, nil
	default:
		return false, fmt.Errorf("the response has status %d", r.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, MaxBytes+1))
	switch {
	case err != nil:
		return false, withoutURL(err)
	case len(data) > MaxBytes:
		return false, fmt.Errorf("it has more than %d bytes, the most that is read", MaxBytes)
	}
	specs, warnings, err := proxylist.Parse(bytes.NewReader(data), proxylist.Options{Scheme: s.Scheme})
	switch {
	case err != nil:
		return false, err
	case len(specs) == 0 && len(warnings) > 0:
		return false, fmt.Errorf("no line of it gives a proxy; line %d: %s", warnings[0].Line, warnings[0].Msg)
	case len(specs) == 0:
		return false, errors.New("it holds no proxy")
	}
	v.data, v.etag, v.lastModified = data, r.Header.Get("ETag"), r.Header.Get("Last-Modified")
	return true, nil
}

// withoutURL returns the cause of an error whose text may contain a URL.
func withoutURL(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

// Fetch fetches a list once and returns it.
func Fetch(ctx context.Context, s Source) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	var v version
	_, err := v.update(ctx, newClient(nil), s)
	return v.data, err
}
