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

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

const maxPage = 1000

// page is the part of a list that a query asks for.
type page[T any] struct {
	hasTotal   bool      // the query has parameters; the response then has total and next_cursor
	limit      int       // maximum number of elements; 0 for no limit
	offset     int       // number of elements before the page
	lastKey    string    // key of the element before the page; "" if it is not known
	order      *order[T] // nil for the order of the list
	descending bool
	text       string // text that the elements must contain, in lower case; "" for any

	key      func(T) string // returns a text that identifies an element, or ""; nil if no element has one
	elements []T            // the elements that match the query
}

// order is one order in which a list can be sorted. Its name is a value of the query parameter "sort". The function
// values returns a number and a text for an element: elements are sorted by the number, and elements with the same
// number are sorted by the text.
type order[T any] struct {
	name     string
	volatile bool // the values of elements may change between the requests for two pages
	values   func(T) (number float64, text string)
}

func numberOrder[T any](name string, value func(T) float64) order[T] {
	return order[T]{name, true, func(e T) (float64, string) { return value(e), "" }}
}

func textOrder[T any](name string, value func(T) string) order[T] {
	return order[T]{name, false, func(e T) (float64, string) { return 0, value(e) }}
}

// parsePage returns the page that a query asks for. The function key returns a text that identifies an element; key is
// nil if elements have no such text. The query parameter "limit" may be at most maxLimit. Its default is defaultLimit;
// a defaultLimit of 0 stands for no limit.
func parsePage[T any](
	c *fiber.Ctx, orders []order[T], key func(T) string, maxLimit, defaultLimit int,
) (p page[T], err error) {
	p.key = key
	args := c.Context().QueryArgs()
	// Older clients send only the parameter hours. They do not expect the additional fields.
	p.hasTotal = args.Len() > 0 && !(args.Len() == 1 && args.Has("hours"))
	if p.limit, err = queryInt(c, "limit", 1, maxLimit, defaultLimit); err != nil {
		return p, err
	}
	if err := p.parseCursor(c); err != nil {
		return p, err
	}
	if value, given := queryValue(c, "sort"); given {
		name, descending := strings.CutPrefix(value, "-")
		i := slices.IndexFunc(orders, func(o order[T]) bool { return o.name == name })
		if i < 0 {
			var names []string
			for _, o := range orders {
				names = append(names, o.name)
			}
			return p, badField("sort", "sort must be one of "+strings.Join(names, ", ")+
				"; a hyphen before it reverses the order, as in -"+names[0]+strict.DidYouMean(name, names))
		}
		p.order, p.descending = &orders[i], descending
	}
	text, err := queryText(c, "q")
	p.text = strings.ToLower(text)
	return p, err
}

// cursorKey matches the encoded key in a cursor.
var cursorKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// parseCursor reads the parameter cursor (see newCursor).
func (p *page[T]) parseCursor(c *fiber.Ctx) (err error) {
	cursor, given := queryValue(c, "cursor")
	if !given {
		return nil
	}
	number, key, hasKey := strings.Cut(cursor, "-")
	p.offset, err = strconv.Atoi(number)
	if err != nil || p.offset < 0 || len(number) > 9 || number[0] == '+' || hasKey && !cursorKey.MatchString(key) {
		return badField("cursor", "cursor must be the next_cursor of a response")
	}
	if lastKey, err := base64.RawURLEncoding.DecodeString(key); err == nil { // otherwise no element has the key
		p.lastKey = string(lastKey)
	}
	return nil
}

// newCursor returns the cursor of a page: the number of elements before the page and, after a hyphen, the key of the
// last of these elements. The parameter lastKey is "" if the elements have no keys.
func newCursor(elements int, lastKey string) *string {
	text := strconv.Itoa(elements)
	if lastKey != "" {
		text += "-" + base64.RawURLEncoding.EncodeToString([]byte(lastKey))
	}
	return &text
}

// takePage returns the elements of the page, and the additional fields of the response; nil if the response has none.
// If the values by which the list is sorted cannot change (order.volatile), the page begins after the last element of
// the previous page, even if elements before that element have been added or removed.
func (p *page[T]) takePage() (elements []T, fields *pageView) {
	total := len(p.elements)
	needed := total
	if p.limit > 0 && p.lastKey == "" {
		needed = min(p.offset+p.limit, total)
	}
	list := p.sorted(needed)
	begin := min(p.offset, len(list))
	if p.lastKey != "" && p.key != nil {
		if i := slices.IndexFunc(list, func(e T) bool { return p.key(e) == p.lastKey }); i >= 0 {
			begin = i + 1
		} else if p.offset > 0 {
			begin = min(p.offset-1, len(list)) // the last element of the previous page has been removed
		}
	}
	end := len(list)
	if p.limit > 0 {
		end = min(begin+p.limit, len(list))
	}
	if !p.hasTotal {
		return list[begin:end], nil
	}
	fields = &pageView{Total: total}
	if end < total {
		lastKey := ""
		if p.key != nil && (p.order == nil || !p.order.volatile) {
			lastKey = p.key(list[end-1])
		}
		fields.NextCursor = newCursor(end, lastKey)
	}
	return list[begin:end], fields
}

// sorted returns at least the first n elements in the order of the query. Elements with equal values keep their order.
func (p *page[T]) sorted(n int) []T {
	if p.order == nil {
		return p.elements
	}
	entries := make([]sortEntry, len(p.elements))
	for i, e := range p.elements {
		entries[i].number, entries[i].text = p.order.values(e)
		entries[i].index = i
	}
	compare := compareAscending
	if p.descending {
		compare = compareDescending
	}
	if n < len(entries)/2 {
		entries = smallest(entries, n, compare)
	}
	slices.SortFunc(entries, compare)
	list := make([]T, len(entries))
	for i := range entries {
		list[i] = p.elements[entries[i].index]
	}
	return list
}

// sortEntry has the values and the index of an element of a list.
type sortEntry struct {
	number float64
	text   string
	index  int
}

func compareAscending(a, b sortEntry) int {
	if c := cmp.Compare(a.number, b.number); c != 0 {
		return c
	}
	if c := strings.Compare(a.text, b.text); c != 0 {
		return c
	}
	return cmp.Compare(a.index, b.index)
}

func compareDescending(a, b sortEntry) int {
	if c := cmp.Compare(b.number, a.number); c != 0 {
		return c
	}
	if c := strings.Compare(b.text, a.text); c != 0 {
		return c
	}
	return cmp.Compare(a.index, b.index)
}

// smallest returns the n smallest elements of list, in any order. It changes list. A heap holds the smallest elements
// so far, with the largest of them at the top. An element that is not smaller than the top costs only one comparison.
func smallest[T any](list []T, n int, compare func(a, b T) int) []T {
	heap := list[:n]
	if n == 0 {
		return heap
	}
	siftDown := func(i int) {
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
		siftDown(i)
	}
	for _, e := range list[n:] {
		if compare(e, heap[0]) < 0 {
			heap[0] = e
			siftDown(0)
		}
	}
	return heap
}

// pageView is the JSON of the additional fields of the response to a query with parameters.
type pageView struct {
	Total      int     `json:"total"`       // number of elements that match the query, on all pages
	NextCursor *string `json:"next_cursor"` // null on the last page
}

// containsText reports whether one of the texts contains the given part, which must be in lower case. The case of the
// texts is ignored.
func containsText(part string, texts ...string) bool {
	return slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(strings.ToLower(s), part) })
}

// maxTextLength is the maximum number of characters of a query parameter.
const maxTextLength = 200

// queryText returns a query parameter that is a text; "" if the query does not have it.
func queryText(c *fiber.Ctx, name string) (string, error) {
	return queryTextUpTo(c, name, maxTextLength)
}

// queryTextUpTo returns a query parameter that is a text of at most most characters; "" if the query does not have it.
func queryTextUpTo(c *fiber.Ctx, name string, most int) (string, error) {
	text, given := queryValue(c, name)
	if given && (text == "" || utf8.RuneCountInString(text) > most) {
		return "", badField(name, fmt.Sprintf("%s must be one text of 1 to %d characters", name, most))
	}
	return text, nil
}

// queryWords returns the words of a query parameter, which are separated by commas; nil if the query does not have it.
func queryWords(c *fiber.Ctx, name string, permitted []string) ([]string, error) {
	value, given := queryValue(c, name)
	if !given {
		return nil, nil
	}
	words := strings.Split(value, ",")
	for _, word := range words {
		if !slices.Contains(permitted, word) {
			return nil, badField(name, name+" must be one of "+strings.Join(permitted, ", ")+
				", or several of them with commas between them"+strict.DidYouMean(word, permitted))
		}
	}
	return words, nil
}
