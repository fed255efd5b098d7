package lists

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core/coretest"
)

// server is a server of one list.
type server struct {
	mu       sync.Mutex
	status   int
	body     string
	etag     string
	err      error
	requests []*http.Request
}

func (s *server) set(status int, body, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.body, s.etag, s.err = status, body, etag, nil
}

func (s *server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

// RoundTrip implements http.RoundTripper.
func (s *server) RoundTrip(q *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, q)
	if s.err != nil {
		return nil, s.err
	}
	r := &http.Response{StatusCode: s.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(s.body)),
		Request: q}
	if s.etag != "" {
		r.Header.Set("ETag", s.etag)
		if q.Header.Get("If-None-Match") == s.etag {
			r.StatusCode, r.Body = http.StatusNotModified, http.NoBody
		}
	}
	return r, nil
}

const address = "https://user:secret@lists.test/all.txt?key=secret"

// start starts a fetcher of one list that is refreshed each minute. It runs in a bubble of synctest.
func start(t *testing.T, s *server) (*Fetcher, *coretest.Log) {
	var log coretest.Log
	f := NewFetcher(s, "", slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(f.Close)
	f.SetSources([]Source{{URL: address, Refresh: time.Minute}})
	return f, &log
}

// changed reports whether a list has changed since the last call.
func changed(f *Fetcher) bool {
	select {
	case <-f.Changed():
		return true
	default:
		return false
	}
}

func TestAListIsRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{status: 200, body: "a.test:80\n", etag: `"1"`}
		f, _ := start(t, s)
		synctest.Wait()
		require.True(t, changed(f))
		require.Equal(t, "a.test:80\n", string(f.Data()[address]))
		time.Sleep(61 * time.Second)
		synctest.Wait()
		require.Equal(t, 2, s.count())
		require.Equal(t, `"1"`, s.requests[1].Header.Get("If-None-Match"))
		require.False(t, changed(f), "304")
		s.set(200, "b.test:80\n", `"2"`)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.True(t, changed(f))
		require.Equal(t, "b.test:80\n", string(f.Data()[address]))
		f.SetSources(nil)
		require.Empty(t, f.Data())
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, 3, s.count(), "a list that is gone is not fetched")
	})
}

// After a bad response of any kind, the last good version stays, and the next attempt begins early.
func TestTheLastGoodVersionStays(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		err    error
		log    string
	}{
		"status":     {status: 503, body: "c.test:80\n", log: "status 503"},
		"error page": {status: 200, body: "<html><body>Sorry, the list is gone</body></html>\n", log: "none of its"},
		"empty":      {status: 200, log: "it holds no proxy"},
		"too long": {status: 200, body: strings.Repeat("a.test:80 #"+strings.Repeat("x", 1000)+"\n", 70000),
			log: "more than"},
		"no response": {err: errors.New("connection refused"), log: "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &server{status: 200, body: "a.test:80\n"}
				f, log := start(t, s)
				synctest.Wait()
				require.True(t, changed(f))
				s.set(c.status, c.body, "")
				s.fail(c.err)
				time.Sleep(61 * time.Second)
				synctest.Wait()
				require.Equal(t, 2, s.count())
				require.False(t, changed(f))
				require.Equal(t, "a.test:80\n", string(f.Data()[address]))
				require.Contains(t, log.String(), c.log)
				require.Contains(t, log.String(), "list=https://***@lists.test/all.txt?*** ")
				require.NotContains(t, log.String(), "secret")
				time.Sleep(5 * time.Second)
				synctest.Wait()
				require.Equal(t, 3, s.count(), "again after 5 s")
				time.Sleep(10 * time.Second)
				synctest.Wait()
				require.Equal(t, 4, s.count(), "then after 10 s")
				s.set(200, "d.test:80\n", "")
				time.Sleep(time.Minute)
				synctest.Wait()
				require.True(t, changed(f))
				require.Equal(t, "d.test:80\n", string(f.Data()[address]))
			})
		})
	}
}

// page returns a page of HTML with a number of proxies.
func page(proxies int) string {
	text := "<!DOCTYPE html><html><table>"
	for i := range proxies {
		text += fmt.Sprintf("<tr><td>192.0.2.%d:80</td></tr>\n", i+1)
	}
	return text + "</table></html>"
}

// A list may be a page of HTML. If it becomes much shorter, it is probably an error page.
func TestIsErrorPage(t *testing.T) {
	for _, c := range []struct {
		proxies, previous int
		want              bool
	}{
		{1, 0, false}, {1, 1, false}, {1, 2, true}, {1, 100, true}, {2, 0, false}, {2, 4, false},
		{50, 100, false}, {49, 100, true},
	} {
		require.Equal(t, c.want, isErrorPage([]byte(page(c.proxies)), c.proxies, 0, c.previous), "%+v", c)
	}
	for text, want := range map[string]bool{
		"192.0.2.1:80\n":          false,
		"\ufeff<html>":            true,
		"\ufeff\n<!doctype html>": true,
		"<?xml version=\"1.0\"?>\n<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\">": true,
		"<?xml version=\"1.0\"?>\n<proxies>":                                                      false,
	} {
		require.Equal(t, want, isErrorPage([]byte(text), 1, 0, 100), text)
	}
	text := []byte("Not available at 192.0.2.1:80\n")
	require.True(t, isErrorPage(text, 1, 1, 2), "an address in a sentence")
	require.False(t, isErrorPage(text, 1, 1, 1))
	require.False(t, isErrorPage(text, 2, 2, 100), "several proxies in a text")
	require.False(t, isErrorPage([]byte(`[["at 192.0.2.1:80"]]`), 1, 1, 100), "JSON")
}

// A list that shrinks to one proxy is no error page only because reading it causes a warning.
func TestAListOfOneProxyIsTaken(t *testing.T) {
	for body, want := range map[string]bool{
		"Not available at 192.0.2.1:80\n":                                    false,
		`[{"ip":"203.0.113.2","port":80,"anonymity":"elite","google":true}]`: true,
		"203.0.113.2:80 DE\n":                                                true,
		"203.0.113.2:80 Germany elite 120ms [SSL]\n":                         true,
		"203.0.113.2:80\n":                                                   true,
	} {
		v := version{data: []byte("old"), proxies: 9}
		changed, err := v.update(t.Context(), &http.Client{Transport: &server{status: 200, body: body}},
			Source{URL: address})
		require.Equal(t, want, changed, body)
		if !want {
			require.ErrorIs(t, err, errShortPage)
		}
	}
}

// A response with 304 ends a row of short pages, but a failed fetch does not.
func TestShortPagesInARow(t *testing.T) {
	s := &server{}
	client := &http.Client{Transport: s}
	var v version
	next := func(body, etag string) bool {
		s.set(200, body, etag)
		changed, _ := v.update(t.Context(), client, Source{URL: address})
		return changed
	}
	require.True(t, next(page(9), `"good"`))
	for range 4 {
		require.False(t, next(page(1), ""))
		require.False(t, next(page(9), `"good"`), "304")
	}
	require.Equal(t, page(9), string(v.data))
	require.False(t, next(page(1), ""))
	require.False(t, next(page(1), ""))
	s.fail(io.ErrUnexpectedEOF)
	_, err := v.update(t.Context(), client, Source{URL: address})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.True(t, next(page(1), ""))
}

// A short page becomes the list when three refreshes in a row have fetched it.
func TestAShortPageIsTakenAtItsThirdTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{status: 200, body: page(9)}
		f, log := start(t, s)
		// next reports whether the list changes at the next refresh.
		next := func(body string) bool {
			s.set(200, body, "")
			n := s.count()
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Equal(t, n+1, s.count(), "no early attempt")
			return changed(f)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		require.True(t, changed(f))
		require.False(t, next(page(1)))
		require.Contains(t, log.String(), "it has hardly any of the addresses that it had before")
		require.False(t, next(page(1)))
		require.True(t, next(page(8)), "the count begins again")
		require.False(t, next("Sorry, there is an error at 192.0.2.1:80\n"))
		require.False(t, next("Error 403\n192.0.2.1:80\n"))
		require.True(t, next(page(7)), "the count begins again")
		require.True(t, next(page(8)))
		require.False(t, next(page(3)))
		require.False(t, next(page(2)))
		require.Equal(t, page(8), string(f.Data()[address]))
		require.True(t, next(page(3)))
		require.Equal(t, page(3), string(f.Data()[address]))
		require.True(t, next(page(2)), "it is compared with the new version")
	})
}

// After a restart, a short page is compared with the saved version.
func TestAShortPageAfterARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lists")
	for _, body := range []string{page(9), page(1), page(3)} {
		synctest.Test(t, func(t *testing.T) {
			f := NewFetcher(&server{status: 200, body: body}, dir, slog.New(slog.DiscardHandler))
			t.Cleanup(f.Close)
			f.SetSources([]Source{{URL: address, Refresh: time.Minute}})
			synctest.Wait()
			require.Equal(t, page(9), string(f.Data()[address]))
		})
	}
}

func TestARedirectToPlainHTTPIsRefused(t *testing.T) {
	redirect := roundTrip(func(q *http.Request) (*http.Response, error) {
		if q.URL.Scheme == "http" {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("a.test:80\n"))}, nil
		}
		return &http.Response{StatusCode: 302, Header: http.Header{"Location": {"http://plain.test/"}},
			Body:    http.NoBody,
			Request: q}, nil
	})
	var v version
	_, err := v.update(context.Background(), newClient(redirect), Source{URL: "https://lists.test/"})
	require.ErrorContains(t, err, "not https://")
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

func TestSourcesAreChecked(t *testing.T) {
	for raw, ok := range map[string]bool{
		"https://a.test/list": true, "http://a.test:81": true, "ftp://a.test/": false, "a.test/list": false, "": false,
		"https:a.test": false, "https://": false, "https://a b": false, "http://%zz/": false,
	} {
		s := Source{URL: raw}
		require.Equal(t, ok, s.Check() == nil, raw)
	}
}

func FuzzRedacted(f *testing.F) {
	f.Add("https://user:secret@lists.test/all.txt?key=secret#secret")
	f.Add("https://a.test/x?")
	f.Fuzz(func(t *testing.T, raw string) {
		if s := (Source{URL: raw}); s.Check() == nil {
			require.NotContains(t, strings.TrimSuffix(Redacted(raw), "?***"), "?")
		}
	})
}

func TestRedacted(t *testing.T) {
	require.Equal(t, "https://***@lists.test/all.txt?***", Redacted(address+"#secret"))
	require.Equal(t, "http://a.test/%2F", Redacted("http://a.test/%2F"))
}

// A restart begins with the last good version, even if the server of the list is down. A list that is no longer used
// leaves no file.
func TestAListIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lists")
	list := []Source{{URL: address, Refresh: time.Minute}}
	synctest.Test(t, func(t *testing.T) {
		f := NewFetcher(&server{status: 200, body: "a.test:80\n"}, dir, slog.New(slog.DiscardHandler))
		f.SetSources(list)
		synctest.Wait()
		require.Equal(t, "a.test:80\n", string(f.Data()[address]))
		f.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		f := NewFetcher(&server{status: 503}, dir, slog.New(slog.DiscardHandler))
		t.Cleanup(f.Close)
		f.SetSources(list)
		require.True(t, changed(f))
		synctest.Wait()
		require.Equal(t, "a.test:80\n", string(f.Data()[address]))
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, files, 1)
		require.NotContains(t, files[0].Name(), "secret")
		info, err := files[0].Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		f.SetSources([]Source{{URL: "https://other.test/", Refresh: time.Minute}})
		files, err = os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, files)
	})
}

// A token in the path, as webshare.io has it, is masked. Other parts of a path are not.
func TestRedactedPath(t *testing.T) {
	const (
		webshare = "https://proxy.test/api/v2/proxy/list/download/"
		github   = "https://raw.githubusercontent.com/TheSpeedX/PROXY-List/master/http.txt"
	)
	for raw, want := range map[string]string{
		webshare + "qpvlqkqkbfcmkxmhtoatpcwgbzqyzyblrqcxhrdb/-/any/username/direct/-/": webshare +
			"***/-/any/username/direct/-/",
		"https://h.test/k/0f8fad5b-d9cb-469f-a165-70867728950e/list.txt": "https://h.test/k/***/list.txt",
		github: github,
		"https://u:p@h.test/free-proxy-list-updated-hourly.txt?key=1#x": "https://***@h.test/" +
			"free-proxy-list-updated-hourly.txt?***",
	} {
		require.Equal(t, want, Redacted(raw))
	}
}
