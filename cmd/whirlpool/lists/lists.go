// Package lists fetches proxy lists by URL and keeps them up to date.
package lists

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/proxylist"
	"github.com/whirlpool-proxy/whirlpool/core/state"
)

const (
	// MaxBytes is the maximum size of a list. If the response is compressed, this is the size after decompression.
	MaxBytes = 64 << 20
	// fetchTimeout is the maximum time of one fetch.
	fetchTimeout = 2 * time.Minute
	// firstRetryDelay is the wait after the first failed fetch. The wait doubles with each failure that follows, up to
	// the refresh interval of the list.
	firstRetryDelay = 5 * time.Second
)

// Source describes a list.
type Source struct {
	URL     string        // http:// or https://
	Scheme  string        // scheme of the proxies in lines without one; "" for http
	Refresh time.Duration // time from one fetch to the next, > 0
}

// Check returns an error unless s.URL can be the URL of a list. The error does not quote the URL, because the URL may
// contain a secret.
func (s *Source) Check() error {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "" {
		return errors.New("must be an absolute http:// or https:// URL")
	}
	return nil
}

// Redacted returns the URL without secrets. It masks the user information, the query, and each part of the path that
// looks like a token: some vendors put the API key of a customer into the path.
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
	parts := strings.Split(u.EscapedPath(), "/")
	for i, part := range parts {
		if tokenForm.MatchString(part) {
			parts[i] = "***"
		}
	}
	return text + u.Host + strings.Join(parts, "/") + query
}

// tokenForm matches a part of a path that contains 20 consecutive letters and digits, or a UUID (RFC 9562 section 4).
var tokenForm = regexp.MustCompile(`[0-9A-Za-z]{20}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}`)

// Fetcher keeps the last good version of each list: the contents at the last fetch that returned at least one proxy.
// It is safe for concurrent use.
type Fetcher struct {
	client  *http.Client
	dir     string // folder of the saved versions; "" to save none
	log     *slog.Logger
	changed chan struct{} // gets an element after a list has changed

	mu    sync.Mutex // guards stops and data
	stops map[Source]context.CancelFunc
	data  map[string][]byte // last good versions, by URL
	wg    sync.WaitGroup
}

// NewFetcher returns a fetcher without lists. It connects through transport. If transport is nil, it uses a default
// transport, which connects through the proxy that the environment names (HTTPS_PROXY). The fetcher saves the last
// good version of each list in the folder dir, and uses this version after a restart. If dir is "", it saves none.
func NewFetcher(transport http.RoundTripper, dir string, log *slog.Logger) *Fetcher {
	return &Fetcher{client: newClient(transport), dir: dir, log: log, changed: make(chan struct{}, 1),
		stops: map[Source]context.CancelFunc{}, data: map[string][]byte{}}
}

// newClient returns an HTTP client that follows at most 5 redirects, and none from https:// to another scheme.
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

// Changed returns a channel that gets an element after one or more lists have changed.
func (f *Fetcher) Changed() <-chan struct{} { return f.changed }

// Data returns the last good version of each list, by URL. A list that was never fetched is missing. The caller must
// not change the bytes.
func (f *Fetcher) Data() map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.data)
}

// SetSources sets the lists that the fetcher fetches. It starts to fetch each new list, and deletes the saved versions
// of lists that are not in sources. Until a fetch of a list succeeds, Data returns the saved version of the list.
func (f *Fetcher) SetSources(sources []Source) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted, urls := map[Source]bool{}, map[string]bool{}
	for _, s := range sources {
		wanted[s], urls[s.URL] = true, true
	}
	for s, stop := range f.stops {
		if !wanted[s] {
			stop()
			delete(f.stops, s)
		}
	}
	maps.DeleteFunc(f.data, func(u string, _ []byte) bool {
		if urls[u] {
			return false
		}
		if f.dir != "" {
			_ = os.Remove(f.filePath(u)) // if Remove fails, the file stays, but nothing reads it
		}
		return true
	})
	for s := range wanted {
		if f.stops[s] == nil {
			f.loadSaved(s.URL)
			ctx, stop := context.WithCancel(context.Background())
			f.stops[s] = stop
			f.wg.Go(func() { f.refreshList(ctx, s) })
		}
	}
}

// Close ends all fetches and waits until they have ended.
func (f *Fetcher) Close() {
	f.mu.Lock()
	for _, stop := range f.stops {
		stop()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

// refreshList fetches the list s immediately, and then after each refresh interval, until ctx ends. After a failed
// fetch the wait is shorter than the refresh interval (firstRetryDelay). After errShortPage the wait is the whole
// interval: with short waits, a server with a brief disturbance would send the page three times, and the third page
// becomes the new list.
func (f *Fetcher) refreshList(ctx context.Context, s Source) {
	v := version{proxies: f.countProxies(s)}
	failures := 0
	for {
		wait := s.Refresh
		changed, err := v.update(ctx, f.client, s)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !errors.Is(err, errShortPage) {
				wait = min(firstRetryDelay<<min(failures, 20), s.Refresh)
				failures++
			}
			f.log.Warn("a proxy list was not fetched; its last good version stays in use",
				slog.String("list", Redacted(s.URL)), slog.Any("error", err), slog.String("next", wait.String()))
		default:
			failures = 0
			if changed {
				f.setData(ctx, s.URL, v.data)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// countProxies returns the number of proxies in the last good version of the list s, which may be the saved one; 0 if
// there is none.
func (f *Fetcher) countProxies(s Source) int {
	f.mu.Lock()
	data := f.data[s.URL]
	f.mu.Unlock()
	specs, _, err := proxylist.Parse(bytes.NewReader(data), proxylist.Options{Scheme: s.Scheme})
	if err != nil {
		return 0
	}
	return len(specs)
}

// setData makes data the last good version of a list, unless ctx has ended.
func (f *Fetcher) setData(ctx context.Context, address string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || bytes.Equal(f.data[address], data) {
		return
	}
	f.data[address] = data
	f.signalChange()
	if err := f.saveFile(address, data); err != nil {
		f.log.Warn("a proxy list was not kept for the next start", slog.String("list", Redacted(address)),
			slog.Any("error", err))
	}
}

// signalChange sends an element on the channel that Changed returns.
func (f *Fetcher) signalChange() {
	select {
	case f.changed <- struct{}{}:
	default: // the channel still has the element of an earlier change
	}
}

func (f *Fetcher) filePath(address string) string {
	sum := sha256.Sum256([]byte(address))
	return filepath.Join(f.dir, hex.EncodeToString(sum[:16])+".txt")
}

// saveFile saves a version of a list in its file, which only its owner can read.
func (f *Fetcher) saveFile(address string, data []byte) error {
	if f.dir == "" {
		return nil
	}
	if err := state.MakeDir(f.dir); err != nil {
		return err
	}
	return state.WriteFile(state.OS{}, f.filePath(address), data)
}

// loadSaved loads the saved version of a list as its last good version, unless the list has one. The caller holds mu.
func (f *Fetcher) loadSaved(address string) {
	if f.dir == "" || f.data[address] != nil {
		return
	}
	data, err := os.ReadFile(f.filePath(address))
	switch {
	case err == nil:
		f.data[address] = data
		f.signalChange()
	case !errors.Is(err, fs.ErrNotExist):
		f.log.Warn("the kept version of a proxy list cannot be read", slog.String("list", Redacted(address)),
			slog.Any("error", err))
	}
}

// version is the contents of a list at one fetch, with the validators of the response (RFC 9110 section 8.8). The
// next fetch sends the validators, so that it gets the contents only if they have changed.
type version struct {
	data               []byte
	proxies            int // number of proxies in data
	etag, lastModified string
	shortPages         int // responses for which isErrorPage is true since the last one with this version or with 304
}

// errShortPage is the error of a response for which isErrorPage is true. The third such response in a row becomes the
// new version. A failed fetch between them makes no difference.
var errShortPage = errors.New("it has hardly any of the addresses that it had before, and is probably an error page")

const maxShortPages = 3

// update fetches the list s, and stores its contents in v if they have changed. If the response has no proxy, or is
// probably an error page, update returns an error and does not change v's contents.
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
		v.shortPages = 0
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
	var counts proxylist.EntryCounts
	specs, warnings, err := proxylist.Parse(bytes.NewReader(data), proxylist.Options{Scheme: s.Scheme, Counts: &counts})
	switch {
	case err != nil:
		return false, err
	case len(specs) == 0 && len(warnings) > 0:
		return false, fmt.Errorf("none of its lines is a valid proxy; %s", warnings[0])
	case len(specs) == 0:
		return false, errors.New("it holds no proxy")
	case isErrorPage(data, len(specs), proseLines(&counts), v.proxies):
		if v.shortPages++; v.shortPages < maxShortPages {
			return false, errShortPage
		}
	}
	v.data, v.proxies, v.shortPages = data, len(specs), 0
	v.etag, v.lastModified = r.Header.Get("ETag"), r.Header.Get("Last-Modified")
	return true, nil
}

// isErrorPage reports whether data is probably an error page, although it has addresses with a port, such as "nginx at
// 192.0.2.1:80". A page of HTML is an error page if it has fewer than half of the proxies of the previous version. It
// is also an error page if it has a single proxy and the previous version had several. Any other text, unless it is
// JSON, is an error page if it has a single proxy and at least one line of prose, and the previous version had several
// proxies.
func isErrorPage(data []byte, proxies, prose, previous int) bool {
	isSingle := proxies == 1 && previous > 1
	if isHTML(data) {
		return isSingle || 2*proxies < previous
	}
	return isSingle && prose > 0 && !json.Valid(data)
}

// proseLines returns the number of lines that are probably prose: lines without a proxy, and lines with its address in
// a sentence.
func proseLines(c *proxylist.EntryCounts) int {
	n := c.Sentences
	for _, skipped := range c.Skipped {
		n += skipped
	}
	return n
}

// isHTML reports whether data begins as a page of HTML or XHTML.
func isHTML(data []byte) bool {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if strings.HasPrefix(http.DetectContentType(data), "text/html") {
		return true
	}
	start := bytes.ToLower(data[:min(len(data), 1024)])
	return bytes.HasPrefix(bytes.TrimSpace(start), []byte("<?xml")) && bytes.Contains(start, []byte("<html"))
}

// withoutURL returns err or, if err is a *url.Error, the cause of err. The text of a *url.Error contains the URL.
func withoutURL(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

// Fetch fetches the list s once and returns its contents. If progress is not nil, Fetch calls it after each read,
// with the number of bytes that were read. The error never contains the URL.
func Fetch(ctx context.Context, s Source, progress func(bytes int)) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	client := newClient(nil)
	if progress != nil {
		client.Transport = &countingTransport{client.Transport, progress}
	}
	var v version
	_, err := v.update(ctx, client, s)
	return v.data, err
}

// countingTransport is an http.RoundTripper that reports the bytes that are read from the bodies of responses.
type countingTransport struct {
	http.RoundTripper
	count func(bytes int)
}

// RoundTrip implements http.RoundTripper.
func (c *countingTransport) RoundTrip(q *http.Request) (*http.Response, error) {
	r, err := c.RoundTripper.RoundTrip(q)
	if err == nil {
		r.Body = &countingBody{r.Body, c.count}
	}
	return r, err
}

// countingBody is the body of a response. It calls count after each read, with the number of bytes that were read.
type countingBody struct {
	io.ReadCloser
	count func(bytes int)
}

// Read implements io.Reader.
func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.count(n)
	return n, err
}
