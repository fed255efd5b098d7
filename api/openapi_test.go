package api

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"
)

// document is openapi.yaml in a form in which it can be compared with responses.
type document struct {
	doc    *openapi3.T
	router routers.Router
	met    map[string]bool // operations that had a successful response, such as "GET /proxies"
}

func newDocument(t *testing.T) *document {
	raw, err := openapiJSON()
	require.NoError(t, err)
	doc, err := openapi3.NewLoader().LoadFromData(raw)
	require.NoError(t, err)
	require.NoError(t, doc.Validate(context.Background()))
	doc.Servers = nil
	openapi3filter.RegisterBodyDecoder("text/event-stream", openapi3filter.PlainBodyDecoder)
	router, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	return &document{doc: doc, router: router, met: map[string]bool{}}
}

// compare compares a response with the document. It skips requests with a path or a method that the document
// does not have.
func (d *document) compare(t *testing.T, method, path string, r *http.Response, body []byte) {
	path, ours := strings.CutPrefix(path, "/api/v1")
	if !ours || strings.Contains(path, "%") {
		return
	}
	q, err := http.NewRequest(method, path, nil)
	require.NoError(t, err)
	route, params, err := d.router.FindRoute(q)
	if err != nil {
		return
	}
	if r.StatusCode < 300 {
		d.met[method+" "+route.Path] = true
	}
	options := &openapi3filter.Options{
		IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
	}
	in := &openapi3filter.RequestValidationInput{Request: q, PathParams: params, Route: route, Options: options}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: r.StatusCode, Header: r.Header, Options: options,
	}
	out.SetBodyBytes(bytes.Clone(body))
	require.NoError(t, openapi3filter.ValidateResponse(context.Background(), out), "%s %s: %s", method, path, body)
}

// requireAllMet fails if an operation had no successful response.
func (d *document) requireAllMet(t *testing.T) {
	for path, item := range d.doc.Paths.Map() {
		for method := range item.Operations() {
			require.True(t, d.met[method+" "+path], "no response of %s %s was compared with openapi.yaml", method, path)
		}
	}
}

// The document has exactly the endpoints under /api/v1.
func TestTheDocumentHasEveryEndpoint(t *testing.T) {
	described := map[string]bool{}
	doc := newDocument(t).doc
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			require.NotEmpty(t, operation.OperationID, "generated clients name the operation by it")
			require.NotEmpty(t, operation.Summary, "%s %s", method, path)
			require.Len(t, operation.Tags, 1, "%s %s: /docs shows it under the tag", method, path)
			require.NotNil(t, doc.Tags.Get(operation.Tags[0]), "%s %s", method, path)
			described[method+" /api/v1"+path] = true
		}
	}
	served := map[string]bool{}
	for endpoint := range endpoints {
		method, path, _ := strings.Cut(endpoint, " ")
		if strings.HasPrefix(path, "/api/v1/") && path != "/api/v1/" {
			path = strings.NewReplacer(":id", "{id}", ":host", "{host}", ":name", "{name}").Replace(path)
			served[method+" "+path] = true
		}
	}
	require.Equal(t, served, described)
}
