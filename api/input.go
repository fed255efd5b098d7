package api

import (
	"errors"
	"net/url"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/whirlpool-proxy/whirlpool/core/metrics"
	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// decodeBody reads a JSON body into v.
func decodeBody(c *fiber.Ctx, v any) error {
	document, err := parseBody(c)
	if err != nil {
		return err
	}
	return decodeDocument(document, v)
}

// decodeChange reads a JSON body into v, except for the field "persist". It returns the value of "persist", or true if
// the field is missing.
func decodeChange(c *fiber.Ctx, v any) (persist bool, err error) {
	document, err := parseBody(c)
	if err != nil {
		return false, err
	}
	persist = true
	if object, ok := document.(map[string]any); ok {
		if value, given := object[persistField]; given {
			if persist, ok = value.(bool); !ok {
				return false, badField(persistField, "persist must be true or false")
			}
			delete(object, persistField)
		}
	}
	return persist, decodeDocument(document, v)
}

// persistField is the name of a field of bodies, and of a query parameter. If the value is false, a change does not
// survive a restart.
const persistField = "persist"

// queryBool returns a query parameter that is true or false.
func queryBool(c *fiber.Ctx, name string, defaultValue bool) (bool, error) {
	q, given := queryValue(c, name)
	if !given {
		return defaultValue, nil
	}
	v, err := strconv.ParseBool(q)
	if err != nil {
		return false, badField(name, name+" must be true or false")
	}
	return v, nil
}

// mediaType returns the Content-Type of a request in lower case, without its parameters.
func mediaType(c *fiber.Ctx) string {
	mime, _, _ := strings.Cut(c.Get(fiber.HeaderContentType), ";")
	return strings.TrimSpace(strings.ToLower(mime))
}

func parseBody(c *fiber.Ctx) (document any, err error) {
	if mediaType(c) != fiber.MIMEApplicationJSON {
		return nil, badMediaType("the body must be application/json")
	}
	body := c.Body()
	if len(body) > maxJSON {
		return nil, bodyTooLarge(maxJSON)
	}
	document, err = strict.ParseJSON(body)
	return document, inputProblem(err)
}

func decodeDocument(document, v any) (err error) {
	strict.JSON.Decode("", document, v, func(e *strict.FieldError) bool {
		err = e
		return false
	})
	return inputProblem(err)
}

// inputProblem returns the problem for an error of package strict.
func inputProblem(err error) error {
	var field *strict.FieldError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &field):
		return badField(field.Field, err.Error())
	}
	return newProblem(fiber.StatusBadRequest, "invalid_json", err.Error())
}

func pathParam(c *fiber.Ctx, name string) (string, error) {
	v, err := url.PathUnescape(c.Params(name))
	if err != nil {
		return "", notFound("the path has an invalid percent escape")
	}
	return v, nil
}

// queryValue returns a parameter of the query, and whether the query has the parameter. The value of a parameter that
// occurs more than once is "".
func queryValue(c *fiber.Ctx, name string) (value string, found bool) {
	all := c.Context().QueryArgs().PeekMulti(name)
	if len(all) != 1 {
		return "", len(all) > 0
	}
	return string(all[0]), true
}

// queryValues returns all values of a query parameter that may occur more than once.
func queryValues(c *fiber.Ctx, name string) (values []string) {
	for _, v := range c.Context().QueryArgs().PeekMulti(name) {
		values = append(values, string(v))
	}
	return values
}

// queryInt returns a query parameter that is an integer from low to high.
func queryInt(c *fiber.Ctx, name string, low, high, defaultValue int) (int, error) {
	q, given := queryValue(c, name)
	if !given {
		return defaultValue, nil
	}
	n, err := strconv.Atoi(q)
	if err != nil || n < low || n > high || strings.HasPrefix(q, "+") {
		limit := strconv.Itoa(low) + " to " + strconv.Itoa(high)
		return 0, outOfRange(name, limit, name+" must be one integer from "+limit)
	}
	return n, nil
}

func queryHours(c *fiber.Ctx) (int, error) {
	return queryInt(c, "hours", 1, metrics.MaxRetentionHours, metrics.DefaultRetentionHours)
}
