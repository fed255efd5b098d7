// Package client is a Go client of the REST API of a gateway. It imports the standard library only.
//
//	c, err := client.New("http://127.0.0.1:8889", os.Getenv("WHIRLPOOL_API_KEY"))
//	page, err := c.Proxies(ctx, client.List{State: []string{"open"}, Limit: 50})
//
// To add an operation, add two things to the file of its noun, such as proxies.go: a type with the fields of the schema
// in api/openapi.yaml, and a method that calls Do with the path below /api/v1. Then add the method to TestClient in
// api/client_test.go, which fails if the type lacks a field that the API sends.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Client sends requests to the API of one gateway. It is safe for concurrent use if its fields do not change.
type Client struct {
	Base *url.URL     // ends in /api/v1
	Key  string       // a key of api.keys; "" for none
	HTTP *http.Client // must have no timeout if Events is called, because the timeout would end the events
}

// New returns a client of the API at an address such as http://127.0.0.1:8889, with or without /api/v1. It ignores
// HTTP_PROXY and HTTPS_PROXY, because they may name the gateway itself.
func New(address, key string) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("the address must be a URL such as http://127.0.0.1:8889") // the address may hold a key
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the address must be a URL without user, query and fragment")
	}
	if !strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), "/api/v1") {
		u = u.JoinPath("/api/v1")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return &Client{Base: u, Key: key, HTTP: &http.Client{Transport: &http.Transport{}}}, nil
}

// Error is an error response of the API.
type Error struct {
	Status  int             `json:"-"`
	Code    string          `json:"error"` // a stable word in snake_case; "" if the response is not of the API
	Message string          `json:"message"`
	Details json.RawMessage `json:"details"`
}

func (e *Error) Error() string { return e.Message }

// NoResponseError reports that the API has sent no response.
type NoResponseError struct {
	Host string // host:port of the API
	Err  error
}

func (e *NoResponseError) Error() string {
	return fmt.Sprintf("no response from the API at %s: %v", e.Host, e.Err)
}

// Unwrap returns the error of the request.
func (e *NoResponseError) Unwrap() error { return e.Err }

// maxResponse is the maximum number of bytes of a response.
const maxResponse = 256 << 20

// Do sends a request with in as its body, encoded as JSON, and decodes the response into out. Both may be nil. The path
// is relative to /api/v1; the caller escapes its segments (url.PathEscape). After an error response, the error is an
// *Error. Without a response, it is a *NoResponseError.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(encoded)
	}
	response, err := c.sendBody(ctx, method, path, query, body, "application/json")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return c.decodeBody(response, out)
}

// sendBody sends a request with a body, which may be nil. An error response is returned as an *Error.
func (c *Client) sendBody(
	ctx context.Context, method, path string, query url.Values, body io.Reader, mediaType string,
) (*http.Response, error) {
	address := c.Base.String() + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	q, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		q.Header.Set("Content-Type", mediaType)
	}
	return c.Send(q)
}

// Send adds the API key to a request and sends it. The body of the request need not be JSON. The caller closes the body
// of the response. An error response is returned as an *Error.
func (c *Client) Send(q *http.Request) (*http.Response, error) {
	if c.Key != "" {
		q.Header.Set("Authorization", "Bearer "+c.Key)
	}
	response, err := c.HTTP.Do(q)
	if err != nil {
		var urlError *url.Error
		if errors.As(err, &urlError) {
			err = urlError.Err
		}
		return nil, &NoResponseError{Host: c.Base.Host, Err: err}
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	apiError := &Error{Status: response.StatusCode}
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if json.Unmarshal(text, apiError) != nil || apiError.Message == "" {
		apiError.Message = fmt.Sprintf("%s responds with status %d; is it the API of a gateway?", c.Base.Host,
			response.StatusCode)
	}
	return nil, apiError
}

func (c *Client) decodeBody(r *http.Response, out any) error {
	if out == nil || r.StatusCode == http.StatusNoContent {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxResponse))
	if err != nil {
		return fmt.Errorf("the response from %s ended early: %w", c.Base.Host, err)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s does not respond with the JSON of the API: %w", c.Base.Host, err)
	}
	return nil
}

// List holds the parameters of a request for a list. A field with its zero value is not sent.
type List struct {
	State  []string // values that the operation lists in openapi.yaml
	Region string
	Vendor string
	Reason string // the Reason of a FailureGroup
	Proxy  string // the id of a proxy
	Host   string // the host of a target
	Text   string // text that the elements must contain, without regard to case
	Sort   string // name of a field; a hyphen before it reverses the order
	Limit  int
	Cursor string // Next of the previous page
}

// Query returns the parameters as the query of a URL.
func (l *List) Query() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("state", strings.Join(l.State, ","))
	set("region", l.Region)
	set("vendor", l.Vendor)
	set("reason", l.Reason)
	set("proxy_id", l.Proxy)
	set("host", l.Host)
	set("q", l.Text)
	set("sort", l.Sort)
	set("cursor", l.Cursor)
	if l.Limit > 0 {
		q.Set("limit", strconv.Itoa(l.Limit))
	}
	return q
}

// Page has the fields of every page of a list. The fields are zero if the request had no parameters.
type Page struct {
	Total int    `json:"total"`       // number of elements that match, on all pages
	Next  string `json:"next_cursor"` // "" on the last page
}

// Seconds is a duration in the form of the API: a number of seconds.
type Seconds float64

// Duration returns the duration, rounded to microseconds.
func (s Seconds) Duration() time.Duration {
	return time.Duration(float64(s) * float64(time.Second)).Round(time.Microsecond)
}
