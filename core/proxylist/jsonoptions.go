package proxylist

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// setOptions sets the options of spec, the proxy of the nth element of a document, from the fields of the element that
// are named like the columns of a table (Columns). Objects of vendors have fields with such names and other meanings.
// So unless the field "url" is the address of the proxy, an option whose value is not valid is left out with a warning.
// If it is the address, such a value is an error. So is an id that another proxy has, which add finds. An id that is a
// number is left out in any object. Fields without a meaning are counted, for one warning. The parameter v has the
// values of the element.
func (l *listParser) setOptions(n int, spec *upstream.Spec, object map[string]any, v *fieldValues) error {
	address, _ := object[columnURL].(string)
	ownForm := address != "" && v[fieldHost] == "" && v[fieldURL] == address
	options := Columns()
	var unused []string
	for _, name := range slices.Sorted(maps.Keys(object)) {
		value := object[name]
		isOption := slices.Contains(options, name) && name != "region" && // fieldValues has the region
			(name != "auth" || value == upstream.AuthDigest)
		switch {
		case isEmpty(value), name == columnID && l.HasIDTemplate && !ownForm:
		case isOption:
			changed := *spec
			err := setJSONOption(&changed, name, value)
			required := ownForm
			switch {
			case err != nil:
			case name == columnID && isRowNumber(changed.ID, value):
				err, required = errors.New("the id is a number, which another list may have as well"), false
			case name == columnID && !ownForm && l.UsedIDs[changed.ID]:
				err = errors.New(ReasonIDTaken)
			case !ownForm:
				err = checkForeign(&changed, name, value)
			}
			switch {
			case err == nil:
				*spec = changed
			case required:
				return err
			default:
				l.warnFor(n, fmt.Sprintf("the field %s is not used: %v", name, err),
					"the value of the field "+name+" is not used")
			}
		case fieldOf(name) == fieldUnused:
			unused = append(unused, name)
		}
	}
	l.unusedFields.add(n, unused)
	return nil
}

// isRowNumber reports whether the id of an object is probably the number of a row in a database. The parameter value is
// the id in the object.
func isRowNumber(id string, value any) bool {
	_, isText := value.(string)
	return !isText || strings.Trim(id, "0123456789") == ""
}

// checkForeign returns an error if an option is not used in an object of a vendor. A rate may be a share of successes,
// and metadata that are a text may be a description. The parameter spec is the proxy with the option.
func checkForeign(spec *upstream.Spec, name string, value any) error {
	_, isObject := value.(map[string]any)
	switch {
	case name == "rate":
		return errors.New("its meaning is not certain; write the address in the field url to use it")
	case name == columnMetadata && !isObject:
		return errors.New("it is not a JSON object")
	}
	return upstream.CheckSpec(spec)
}

// setJSONOption sets the option with the given name to a JSON value.
func setJSONOption(spec *upstream.Spec, name string, value any) error {
	object, isObject := value.(map[string]any)
	if name != columnMetadata || !isObject {
		text, err := scalarText(value)
		if err != nil {
			return fmt.Errorf("the option %s %w", name, err)
		}
		return setColumn(spec, name, text)
	}
	texts := map[string]string{}
	for key, value := range object {
		text, err := scalarText(value)
		if err != nil {
			return fmt.Errorf("the value %.40q of the option metadata %w", key, err)
		}
		texts[key] = text
	}
	spec.ChangeExtras(func(e *upstream.Extras) { e.Metadata = texts })
	return nil
}

// scalarText returns a text, number or boolean as text, and an array of them with commas between.
func scalarText(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool, float64:
		text, err := json.Marshal(v)
		return string(text), err
	case []any:
		var all []string
		for _, e := range v {
			text, err := scalarText(e)
			if err != nil {
				return "", err
			}
			all = append(all, text)
		}
		return strings.Join(all, ","), nil
	}
	return "", errors.New("is neither a text nor a number")
}

// isEmpty reports whether a JSON value is null or has no content.
func isEmpty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// maxUnusedFields is the maximum number of names in the warning about unused fields.
const maxUnusedFields = 20

// fieldCount counts the entries with unused fields, and holds the names of these fields in the order of their
// occurrence.
type fieldCount struct {
	lineCount
	names []string
	more  bool // there are more names than maxUnusedFields
}

func (c *fieldCount) add(n int, names []string) {
	if len(names) > 0 {
		c.lineCount.add(n)
	}
	for _, name := range names {
		switch {
		case slices.Contains(c.names, name):
		case len(c.names) == maxUnusedFields:
			c.more = true
		default:
			c.names = append(c.names, name)
		}
	}
}

func (l *listParser) warnOfUnusedFields() {
	c := &l.unusedFields
	if c.n == 0 {
		return
	}
	var names []string
	for _, name := range c.names {
		text := fmt.Sprintf("%.40q", name)
		if option := similarOption(name); option != "" {
			text += " (did you mean " + option + "?)"
		}
		names = append(names, text)
	}
	if c.more {
		names = append(names, "and others")
	}
	l.warnFor(c.first, fmt.Sprintf("in %s, this one the first, fields are not used: %s", countEntries(c.n),
		strings.Join(names, ", ")), "fields are not used")
}

func countEntries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}
