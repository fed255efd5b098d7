package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Event is an event of the gateway. In api/openapi.yaml, the description of GET /events explains the types of events.
type Event struct {
	ID   string
	Type string
	Data json.RawMessage
}

// EventQuery selects events.
type EventQuery struct {
	Types  []string // empty for the types that the gateway sends by default
	Sample float64  // share, above 0 and up to 1, of the events of type request and attempt; 0 for all
	LastID string   // begin after the event with this ID; "" to begin with the next new event
}

// Events calls f with each event that query selects, until ctx ends, f returns an error, or the gateway ends the
// response (the error is then io.EOF).
func (c *Client) Events(ctx context.Context, query EventQuery, f func(Event) error) error {
	values := url.Values{}
	if len(query.Types) > 0 {
		values.Set("type", strings.Join(query.Types, ","))
	}
	if query.Sample > 0 {
		values.Set("sample", strconv.FormatFloat(query.Sample, 'f', -1, 64))
	}
	address := c.Base.String() + "/events"
	if len(values) > 0 {
		address += "?" + values.Encode()
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	if query.LastID != "" {
		q.Header.Set("Last-Event-ID", query.LastID)
	}
	response, err := c.Send(q)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return parseEvents(response.Body, f)
}

// parseEvents reads server-sent events (WHATWG HTML, section 9.2.6) with one line of data each.
func parseEvents(r io.Reader, f func(Event) error) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 2<<20)
	var e Event
	for scanner.Scan() {
		name, value, _ := strings.Cut(scanner.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			e.ID = value
		case "event":
			e.Type = value
		case "data":
			e.Data = json.RawMessage(value)
		}
		if scanner.Text() != "" {
			continue
		}
		if e.Data != nil {
			if err := f(e); err != nil {
				return err
			}
		}
		e = Event{ID: e.ID}
	}
	if err := scanner.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return io.EOF
}
