package api

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// parameter is a parameter of an operation in openapi.yaml, or a reference to one.
type parameter struct {
	Ref  string `json:"$ref"`
	Name string `json:"name"`
	In   string `json:"in"`
}

// queryParameters returns the names of the query parameters of each operation in openapi.yaml, by its method and path,
// such as "GET /proxies/:id".
var queryParameters = sync.OnceValues(func() (map[string][]string, error) {
	spec, err := openapiJSON()
	if err != nil {
		return nil, err
	}
	var doc struct {
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			Parameters map[string]parameter `json:"parameters"`
		} `json:"components"`
	}
	if err := json.Unmarshal(spec, &doc); err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for path, item := range doc.Paths {
		path = strings.NewReplacer("{", ":", "}", "").Replace(path)
		for method, raw := range item {
			if method == "parameters" {
				continue // the value has the parameters of the path, and is not an operation
			}
			var operation struct {
				Parameters []parameter `json:"parameters"`
			}
			if err := json.Unmarshal(raw, &operation); err != nil {
				return nil, err
			}
			names := []string{}
			for _, p := range operation.Parameters {
				if p.Ref != "" {
					p = doc.Components.Parameters[p.Ref[strings.LastIndexByte(p.Ref, '/')+1:]]
				}
				if p.In == "query" {
					names = append(names, p.Name)
				}
			}
			out[strings.ToUpper(method)+" "+path] = names
		}
	}
	return out, nil
})

// checkedRouter adds a check to each route: the query may have only parameters that openapi.yaml lists for the
// operation. A client that misspells a parameter gets an error instead of a wrong result.
type checkedRouter struct {
	fiber.Router
	parameters map[string][]string
}

var errUndocumented = errors.New("openapi.yaml lacks the operation")

func (r checkedRouter) addRoute(
	register func(string, ...fiber.Handler) fiber.Router, method, path string, handlers []fiber.Handler,
) fiber.Router {
	names, ok := r.parameters[method+" "+path]
	check := func(c *fiber.Ctx) error {
		if !ok {
			return errUndocumented
		}
		if err := checkParameters(c, names); err != nil {
			return err
		}
		return c.Next()
	}
	return register(path, slices.Insert(slices.Clone(handlers), 0, check)...)
}

// Get implements fiber.Router.
func (r checkedRouter) Get(path string, handlers ...fiber.Handler) fiber.Router {
	return r.addRoute(r.Router.Get, fiber.MethodGet, path, handlers)
}

// Post implements fiber.Router.
func (r checkedRouter) Post(path string, handlers ...fiber.Handler) fiber.Router {
	return r.addRoute(r.Router.Post, fiber.MethodPost, path, handlers)
}

// Put implements fiber.Router.
func (r checkedRouter) Put(path string, handlers ...fiber.Handler) fiber.Router {
	return r.addRoute(r.Router.Put, fiber.MethodPut, path, handlers)
}

// Patch implements fiber.Router.
func (r checkedRouter) Patch(path string, handlers ...fiber.Handler) fiber.Router {
	return r.addRoute(r.Router.Patch, fiber.MethodPatch, path, handlers)
}

// Delete implements fiber.Router.
func (r checkedRouter) Delete(path string, handlers ...fiber.Handler) fiber.Router {
	return r.addRoute(r.Router.Delete, fiber.MethodDelete, path, handlers)
}

// checkParameters returns an error if the query has a parameter whose name is not in names.
func checkParameters(c *fiber.Ctx, names []string) error {
	for key := range c.Context().QueryArgs().All() {
		name := string(key)
		if slices.Contains(names, name) {
			continue
		}
		field := clipText(name)
		message := "there is no query parameter " + field
		switch closest := strict.Closest(name, names); {
		case closest != "":
			message += "; did you mean " + closest + "?"
		case len(names) == 0:
			message += ": " + c.Method() + " " + c.Route().Path + " has none"
		default:
			message += "; there are " + strings.Join(names, ", ")
		}
		return badField(field, message)
	}
	return nil
}
