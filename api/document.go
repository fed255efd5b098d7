package api

import (
	_ "embed" // openapi.yaml and the examples
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

//go:embed openapi.yaml
var openapiYAML []byte

// examplesJSON has examples of operations, by method and path. TestResponses writes it from real responses, and fails
// if an example is not a response of the API any more.
//
//go:embed examples.json
var examplesJSON []byte

// otherExamplesJSON has the examples of responses that TestResponses does not get, such as those of a cluster. They are
// those of the tests of these operations.
//
//go:embed examples-other.json
var otherExamplesJSON []byte

// example is an example of an operation.
type example struct {
	Request  json.RawMessage `json:"request,omitempty"` // the body; nil for none
	Status   string          `json:"status"`            // of the response
	Type     string          `json:"type"`              // media type of the response
	Response json.RawMessage `json:"response"`          // the body; a JSON string if Type is not JSON
}

// openapiJSON returns openapi.yaml with the examples as JSON.
var openapiJSON = sync.OnceValues(func() ([]byte, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(openapiYAML, &doc); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	var examples map[string]example
	for _, text := range [][]byte{examplesJSON, otherExamplesJSON} { // the second one replaces examples of the first
		if err := json.Unmarshal(text, &examples); err != nil {
			return nil, fmt.Errorf("the examples of the API: %w", err)
		}
	}
	paths := subtree(doc, "paths")
	for operation, e := range examples {
		method, path, _ := strings.Cut(operation, " ")
		o := subtree(paths, path, strings.ToLower(method))
		if content := subtree(o, "responses", e.Status, "content", e.Type); content != nil {
			content["example"] = e.Response
		}
		if content := subtree(o, "requestBody", "content", "application/json"); content != nil && e.Request != nil {
			content["example"] = e.Request
		}
	}
	out, err := json.Marshal(doc)
	return append(out, '\n'), err
})

// subtree returns the object at a path in a document; nil if there is none.
func subtree(object map[string]any, path ...string) map[string]any {
	for _, key := range path {
		object, _ = object[key].(map[string]any)
	}
	return object
}
