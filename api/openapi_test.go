package api

import (
	"bytes"
	"context"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strconv"
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

	examples map[string][]example // successful responses by operation
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
	return &document{doc: doc, router: router, met: map[string]bool{}, examples: map[string][]example{}}
}

// compare compares a response with the document. It skips requests with a path or a method that the document
// does not have.
func (d *document) compare(t *testing.T, method, path, sent string, r *http.Response, body []byte) {
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
		d.addExample(method+" "+route.Path, sent, r, body)
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

// maxExample is the length of an example above which a shorter one is preferred.
const maxExample = 2500

// addExample keeps a response as a possible example of its operation.
func (d *document) addExample(operation, sent string, r *http.Response, body []byte) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	e := example{Status: strconv.Itoa(r.StatusCode), Type: kind, Response: bytes.TrimSuffix(body, []byte("\n"))}
	switch {
	case len(body) == 0, kind == "text/event-stream", operation == "GET /openapi.json",
		strings.HasPrefix(sent, "{") && strings.Contains(sent, "@"): // no example has credentials
		return
	case kind != "application/json":
		e.Response, _ = json.Marshal(string(body)) // cannot fail
	}
	if json.Valid([]byte(sent)) {
		e.Request = json.RawMessage(sent)
	}
	d.examples[operation] = append(d.examples[operation], e)
}

// chooseExamples returns for each operation the longest response up to maxExample, or else the shortest one.
func (d *document) chooseExamples() map[string]example {
	chosen := map[string]example{}
	for operation, all := range d.examples {
		hasBody := func(e example) bool { return e.Request != nil }
		if slices.ContainsFunc(all, hasBody) {
			all = slices.DeleteFunc(slices.Clone(all), func(e example) bool { return !hasBody(e) })
		}
		best := all[0]
		for _, e := range all {
			n, length := len(e.Response), len(best.Response)
			if length > maxExample && n < length || n <= maxExample && n > length {
				best = e
			}
		}
		chosen[operation] = best
	}
	return chosen
}

// requireTrue fails if an example of examples.json is no response that the API has just given.
func (d *document) requireTrue(t *testing.T) {
	var examples map[string]example
	require.NoError(t, json.Unmarshal(examplesJSON, &examples))
	for operation, e := range examples {
		var given []string
		for _, x := range d.examples[operation] {
			given = append(given, string(x.Request)+" "+x.Status+" "+x.Type+" "+string(mask(x.Response)))
		}
		require.Contains(t, given, string(e.Request)+" "+e.Status+" "+e.Type+" "+string(mask(e.Response)),
			"the example of %s is old: go test ./api -run TestResponses -update", operation)
	}
}

// Each operation has a description and examples. The loader has compared the examples with their schemas.
func TestEachOperationHasExamples(t *testing.T) {
	doc := newDocument(t).doc
	for path, item := range doc.Paths.Map() {
		for method, o := range item.Operations() {
			name := method + " " + path
			require.NotEmpty(t, o.Description, name)
			bodies, found := 0, 0
			for status, r := range o.Responses.Map() {
				if !strings.HasPrefix(status, "2") {
					continue
				}
				for _, content := range r.Value.Content {
					if bodies++; content.Example != nil {
						found++
					}
				}
			}
			require.True(t, bodies == 0 || found > 0, "%s has no example of a success", name)
			if o.RequestBody == nil {
				continue
			}
			for kind, content := range o.RequestBody.Value.Content {
				if kind != "application/wasm" && kind != "multipart/form-data" { // a module is no text
					require.NotNil(t, content.Example, "%s has no example of a body of type %s", name, kind)
				}
			}
		}
	}
	raw, err := openapiJSON()
	require.NoError(t, err)
	for _, secret := range []string{"canary", "hunter2", "secret"} {
		require.NotContains(t, string(examplesJSON)+string(otherExamplesJSON), secret)
	}
	require.NotContains(t, string(raw), "hunter2")
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
