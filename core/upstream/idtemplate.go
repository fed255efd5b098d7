package upstream

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// IDTemplate is a text from which the automatic ids of proxies are made, such as "{user}@{host}:{port}". The zero value
// stands for host:port.
type IDTemplate string

// The placeholders of an IDTemplate. There is none for the password, because ids are in logs and metrics.
const (
	idUser   = "user"
	idHost   = "host" // IPv6 in brackets
	idPort   = "port"
	idScheme = "scheme"
)

const idPlaceholders = "the placeholders are {user}, {host}, {port} and {scheme}"

// inBraces matches a placeholder, or a single brace.
var inBraces = regexp.MustCompile(`\{([^{}]*)\}|[{}]`)

// maxIDBase is the maximum length of an id without its number, in bytes.
const maxIDBase = 240

// HasPlaceholder reports whether the text has a brace. An id with a brace is an IDTemplate.
func (t IDTemplate) HasPlaceholder() bool { return strings.ContainsAny(string(t), "{}") }

// Check returns an error if the template is not valid.
func (t IDTemplate) Check() error {
	for _, m := range inBraces.FindAllStringSubmatch(string(t), -1) {
		switch word := m[1]; word {
		case idUser, idHost, idPort, idScheme:
		case "password", "pass":
			return errors.New("must not have the password: ids are in logs and metrics; " + idPlaceholders)
		case "":
			return fmt.Errorf("has a %q that belongs to no placeholder; %s", m[0][:1], idPlaceholders)
		default:
			similar := strict.Closest(word, []string{idUser, idHost, idPort, idScheme})
			if similar != "" {
				similar = "; did you mean {" + similar + "}?"
			}
			return fmt.Errorf("has the unknown placeholder %.20q%s; %s", m[0], similar, idPlaceholders)
		}
	}
	switch {
	case t == "":
		return nil
	case !t.HasPlaceholder():
		return errors.New("has no placeholder, so all proxies of the list would have the same id; " + idPlaceholders)
	case len(t) > maxIDBase:
		return fmt.Errorf("has %d bytes; at most %d are allowed", len(t), maxIDBase)
	case strings.ContainsFunc(string(t), func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("has a character that is not printable ASCII")
	}
	return nil
}

// expand returns the id of a proxy without the number that makes it unique. If the proxy has no user name, expand
// leaves out {user} and the signs after it, or the signs before it if {user} is the end of the template. It cuts off an
// id that is too long.
func (t IDTemplate) expand(a Address) string {
	if a.Scheme == Direct {
		return Direct
	}
	text := string(t)
	if a.Username == "" {
		text = withoutUser(text)
	}
	var id strings.Builder
	for text != "" {
		before, after, _ := strings.Cut(text, "{")
		word, rest, _ := strings.Cut(after, "}")
		id.WriteString(before)
		i := max(strings.LastIndexByte(a.Host, ':'), 0)
		switch word {
		case idUser:
			id.WriteString(a.Username)
		case idHost:
			id.WriteString(a.Host[:i])
		case idPort:
			id.WriteString(strings.TrimPrefix(a.Host[i:], ":"))
		case idScheme:
			id.WriteString(a.Scheme)
		}
		text = rest
	}
	return plainID(id.String(), a.Host)
}

func withoutUser(text string) string {
	const signs = "@:;,.-_+/|# "
	before, after, found := strings.Cut(text, "{"+idUser+"}")
	switch {
	case !found:
		return text
	case after == "":
		return strings.TrimRight(before, signs)
	}
	return before + withoutUser(strings.TrimLeft(after, signs))
}

// plainID makes a valid id from a text. It replaces control characters, and cuts off an id that is too long. If the
// text is empty, it returns other.
func plainID(id, other string) string {
	id = strings.Map(func(r rune) rune {
		if isControl(r) {
			return '_'
		}
		return r
	}, id)
	if len(id) > maxIDBase {
		end := maxIDBase
		for !utf8.RuneStart(id[end]) {
			end--
		}
		id = id[:end]
	}
	switch id {
	case "":
		return other
	case metricsID, DirectID: // no proxy may have these ids
		return id + "-1"
	}
	return id
}

// SetIDTemplate sets the template of all proxies without an id.
func SetIDTemplate(specs []Spec, t IDTemplate) {
	if t == "" {
		return
	}
	shared := &Extras{IDTemplate: t} // Extras are copied before each change, so proxies may share them
	for i := range specs {
		switch s := &specs[i]; {
		case s.ID != "":
		case s.Extras == nil:
			s.Extras = shared
		default:
			s.ChangeExtras(func(e *Extras) { e.IDTemplate = t })
		}
	}
}

// IDBase returns the text from which the automatic id is made.
func (s *Spec) IDBase() string {
	if s.Extras != nil && s.Extras.IDTemplate != "" {
		return s.Extras.IDTemplate.expand(s.Address)
	}
	return s.Address.idBase()
}
