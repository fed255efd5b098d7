package api

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
)

// maxPage is the maximum number of elements of one page.
const maxPage = 1000

// page is the part of a list that a query asks for.
type page[T any] struct {
	given      bool      // the query has parameters; the response then has total and next_cursor
	limit      int       // maximum number of elements; 0 for no limit
	offset     int       // number of elements before the page
	last       string    // key of the element before the page; "" if it is not known
	order      *order[T] // nil for the order of the list
	descending bool
	text       string // text that the elements must contain, in lower case; "" for any

	key  func(T) string // returns a text that identifies an element, or ""; nil if no element has one
	list []T            // the elements that match the query
}

// order is one order in which a list can be sorted. The field name is the value of the parameter sort that chooses
// this order. The function by returns the two values by which the elements are sorted: first by the number, then by
// the text.
type order[T any] struct {
	name     string
	volatile bool // the values of elements may change between the requests for two pages
	by       func(T) (number float64, text string)
}

func byNumber[T any](name string, by func(T) float64) order[T] {
	return order[T]{name, true, func(e T) (float64, string) { return by(e), "" }}
}

func byText[T any](name string, by func(T) string) order[T] {
	return order[T]{name, false, func(e T) (float64, string) { return 0, by(e) }}
}

// pageOf returns the page that a query asks for. The function key returns a text that identifies an element: the next
// page begins after the last element of this page. The function may be nil. The parameter most is the maximum of the
// query parameter limit. The parameter def is the default of limit; 0 stands for no limit.
func pageOf[T any](
	c *fiber.Ctx, orders []order[T], key func(T) string, most, def int,
) (p page[T], err error) {
	p.key = key
	names := c.Context().QueryArgs()
	// If hours is the only parameter, the response has no additional fields, because clients used hours before the
	// API had pages.
	p.given = names.Len() > 0 && !(names.Len() == 1 && names.Has("hours"))
	if p.limit, err = queryInt(c, "limit", 1, most, def); err != nil {
		return p, err
	}
	if err := p.parseCursor(c); err != nil {
		return p, err
	}
	if value, given := query(c, "sort"); given {
		name, descending := strings.CutPrefix(value, "-")
		i := slices.IndexFunc(orders, func(o order[T]) bool { return o.name == name })
		if i < 0 {
			var names []string
			for _, o := range orders {
				names = append(names, o.name)
			}
			return p, badField("sort", "sort must be one of "+strings.Join(names, ", ")+
				"; a hyphen before it reverses the order, as in -"+names[0])
		}
		p.order, p.descending = &orders[i], descending
	}
	text, err := queryText(c, "q")
	p.text = strings.ToLower(text)
	return p, err
}

// cursorKey matches the second part of a cursor.
var cursorKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// parseCursor reads the parameter cursor: the number of elements before the page and, after a hyphen, the key of the
// last of these elements.
func (p *page[T]) parseCursor(c *fiber.Ctx) (err error) {
	cursor, given := query(c, "cursor")
	if !given {
		return nil
	}
	number, key, hasKey := strings.Cut(cursor, "-")
	p.offset, err = strconv.Atoi(number)
	if err != nil || p.offset < 0 || len(number) > 9 || number[0] == '+' || hasKey && !cursorKey.MatchString(key) {
		return badField("cursor", "cursor must be the next_cursor of a response")
	}
	if last, err := base64.RawURLEncoding.DecodeString(key); err == nil { // otherwise no element has the key
		p.last = string(last)
	}
	return nil
}

// cursor returns the cursor of the page that follows the given number of elements. The parameter last is the key of
// the last of these elements; "" if there is no key.
func cursor(elements int, last string) *string {
	text := strconv.Itoa(elements)
	if last != "" {
		text += "-" + base64.RawURLEncoding.EncodeToString([]byte(last))
	}
	return &text
}

// cut sorts the elements and returns the elements of the page. The result rest has the additional fields of the
// response; it is nil if the query has no parameters. If the order is not volatile, the page begins after the last
// element of the previous page. This is true even if elements before that element have been added or removed.
func (p *page[T]) cut() (elements []T, rest *pageView) {
	total := len(p.list)
	first := total
	if p.limit > 0 && p.last == "" {
		first = min(p.offset+p.limit, total)
	}
	list := p.sorted(first)
	begin := min(p.offset, len(list))
	if p.last != "" && p.key != nil {
		if i := slices.IndexFunc(list, func(e T) bool { return p.key(e) == p.last }); i >= 0 {
			begin = i + 1
		} else if p.offset > 0 {
			begin = min(p.offset-1, len(list)) // the last element of the previous page has been removed
		}
	}
	end := len(list)
	if p.limit > 0 {
		end = min(begin+p.limit, len(list))
	}
	if !p.given {
		return list[begin:end], nil
	}
	rest = &pageView{Total: total}
	if end < total {
		last := ""
		if p.key != nil && (p.order == nil || !p.order.volatile) {
			last = p.key(list[end-1])
		}
		rest.NextCursor = cursor(end, last)
	}
	return list[begin:end], rest
}

// sorted returns at least the first n elements in the order that the query asks for. Elements with equal values keep
// their order.
func (p *page[T]) sorted(n int) []T {
	if p.order == nil {
		return p.list
	}
	places := make([]place, len(p.list))
	for i, e := range p.list {
		places[i].number, places[i].text = p.order.by(e)
		places[i].at = i
	}
	compare := ascending
	if p.descending {
		compare = descending
	}
	if n < len(places)/2 {
		places = smallest(places, n, compare)
	}
	slices.SortFunc(places, compare)
	list := make([]T, len(places))
	for i := range places {
		list[i] = p.list[places[i].at]
	}
	return list
}

// place is an element of a list that is sorted: its values, and its index in the list.
type place struct {
	number float64
	text   string
	at     int
}

func ascending(a, b place) int {
	if c := cmp.Compare(a.number, b.number); c != 0 {
		return c
	}
	if c := strings.Compare(a.text, b.text); c != 0 {
		return c
	}
	return cmp.Compare(a.at, b.at)
}

func descending(a, b place) int {
	if c := cmp.Compare(b.number, a.number); c != 0 {
		return c
	}
	if c := strings.Compare(b.text, a.text); c != 0 {
		return c
	}
	return cmp.Compare(a.at, b.at)
}

// smallest returns the n smallest elements of list, in any order. It changes list. The smallest elements found so far
// are in a heap whose first element is the largest of them. So an element that is not smaller than the first element of
// the heap costs only one comparison.
func smallest[T any](list []T, n int, compare func(a, b T) int) []T {
	heap := list[:n]
	if n == 0 {
		return heap
	}
	sink := func(i int) {
		for {
			child := 2*i + 1
			if child >= n {
				return
			}
			if child+1 < n && compare(heap[child+1], heap[child]) > 0 {
				child++
			}
			if compare(heap[child], heap[i]) <= 0 {
				return
			}
			heap[i], heap[child] = heap[child], heap[i]
			i = child
		}
	}
	for i := n/2 - 1; i >= 0; i-- {
		sink(i)
	}
	for _, e := range list[n:] {
		if compare(e, heap[0]) < 0 {
			heap[0] = e
			sink(0)
		}
	}
	return heap
}

// pageView is the JSON of the additional fields of the response to a query with parameters.
type pageView struct {
	Total      int     `json:"total"`       // number of elements that match the query, on all pages
	NextCursor *string `json:"next_cursor"` // null on the last page
}

// contains reports whether one of the texts contains the text part, without regard to case. The caller must pass part
// in lower case.
func contains(part string, texts ...string) bool {
	return slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(strings.ToLower(s), part) })
}

// maxText is the maximum number of characters of a text in a query.
const maxText = 200

// queryText returns a query parameter that is a text; "" if the query does not have it.
func queryText(c *fiber.Ctx, name string) (string, error) {
	text, given := query(c, name)
	if given && (text == "" || utf8.RuneCountInString(text) > maxText) {
		return "", badField(name, fmt.Sprintf("%s must be one text of 1 to %d characters", name, maxText))
	}
	return text, nil
}

// queryWords returns the elements of a query parameter that is a list of words with commas between them; nil if the
// query does not have the parameter.
func queryWords(c *fiber.Ctx, name string, permitted []string) ([]string, error) {
	value, given := query(c, name)
	if !given {
		return nil, nil
	}
	words := strings.Split(value, ",")
	for _, word := range words {
		if !slices.Contains(permitted, word) {
			return nil, badField(name, name+" must be one of "+strings.Join(permitted, ", ")+
				", or several of them with commas between them")
		}
	}
	return words, nil
}
