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

// decode reads a JSON body strictly into v.
func decode(c *fiber.Ctx, v any) error {
	mime, _, _ := strings.Cut(c.Get(fiber.HeaderContentType), ";")
	if strings.TrimSpace(strings.ToLower(mime)) != fiber.MIMEApplicationJSON {
		return badMediaType("the body must be application/json")
	}
	body := c.Body()
	if len(body) > maxJSON {
		return bodyTooLarge(maxJSON)
	}
	err := strict.DecodeJSON(body, v)
	var field *strict.FieldError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &field):
		return badField(field.Field, err.Error())
	}
	return newProblem(fiber.StatusBadRequest, "invalid_json", err.Error())
}

// param returns a parameter of the path, decoded.
func param(c *fiber.Ctx, name string) (string, error) {
	v, err := url.PathUnescape(c.Params(name))
	if err != nil {
		return "", notFound("the path has an invalid percent escape")
	}
	return v, nil
}

// query returns a parameter of the query. given reports whether the query has it. The value of a parameter
// that occurs more than once is "".
func query(c *fiber.Ctx, name string) (value string, given bool) {
	all := c.Context().QueryArgs().PeekMulti(name)
	if len(all) != 1 {
		return "", len(all) > 0
	}
	return string(all[0]), true
}

// queryInt returns an integer parameter of the query, or def if the query does not have it.
func queryInt(c *fiber.Ctx, name string, low, high, def int) (int, error) {
	q, given := query(c, name)
	if !given {
		return def, nil
	}
	n, err := strconv.Atoi(q)
	if err != nil || n < low || n > high || strings.HasPrefix(q, "+") {
		limit := strconv.Itoa(low) + " to " + strconv.Itoa(high)
		return 0, outOfRange(name, limit, name+" must be one integer from "+limit)
	}
	return n, nil
}

// queryHours returns the number of hours that a query on the metrics covers.
func queryHours(c *fiber.Ctx) (int, error) {
	return queryInt(c, "hours", 1, metrics.MaxRetentionHours, metrics.DefaultRetentionHours)
}
