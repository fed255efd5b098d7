package upstream

import (
	"regexp"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// The templates in the user name and password of an address. A proxy vendor has many exits behind one address, and
// chooses the exit by a part of the user name. With a template, one proxy of the pool therefore has many exits.
const (
	templateSession = "{session}" // a token of the request's session, or a random value
	templateRandom  = "{rand8}"   // 8 random letters and digits
	templateRegion  = "{region}"  // the region that the request asks for, or the region of the proxy
)

// placeholder matches a word in braces, and the beginning of a reference such as {env:NAME}.
var placeholder = regexp.MustCompile(`\{\s*([A-Za-z][A-Za-z0-9_-]{0,15})\s*(:[^{}]*)?\}`)

// TemplateError is the error of CheckTemplates.
type TemplateError string

func (e TemplateError) Error() string { return string(e) }

// CheckTemplates returns a TemplateError if credentials contain a misspelt template, or a reference to an environment
// variable that was not replaced. The caller passes the credentials as the user has written them: in a URL, %7B stands
// for a brace that begins no template. Other braces are permitted, because a password may contain them.
func CheckTemplates(credentials string) error {
	if !strings.Contains(credentials, "{") {
		return nil
	}
	for _, m := range placeholder.FindAllStringSubmatch(credentials, -1) {
		word := strings.ToLower(m[1])
		if m[2] != "" {
			if strict.Closest(word, []string{"env"}) != "" {
				return TemplateError("the user name or password has a reference that is not replaced: {env:NAME} is " +
					"replaced in the URLs of [[proxies]] only, and NAME has letters, digits and _")
			}
			continue
		}
		known := strict.Closest(word, []string{"session", "rand8", "region"})
		if strings.HasPrefix(word, "rand") {
			known = "rand8"
		}
		if template := "{" + known + "}"; known != "" && template != m[0] {
			return TemplateError("the user name or password has a misspelt template; did you mean " + template +
				"? If it is meant as it is, write the proxy as a URL with %7B in place of {")
		}
	}
	return nil
}

// Values are the values of the templates of an address.
type Values struct{ Session, Random, Region string }

// HasTemplates reports whether the user name or password has a template.
func (a Address) HasTemplates() bool {
	return a.has(templateSession) || a.has(templateRandom) || a.has(templateRegion)
}

// Random reports whether the user name or password has a template that gets a random value. The template {session} gets
// a random value only if the request has no session.
func (a Address) Random(session bool) bool {
	return a.has(templateRandom) || !session && a.has(templateSession)
}

// AnyRegion reports whether the user name or password has the template for the region, which means that the
// proxy has exits in all regions.
func (a Address) AnyRegion() bool { return a.has(templateRegion) }

func (a Address) has(template string) bool {
	return strings.Contains(a.Username, template) || strings.Contains(string(a.Password), template)
}

// PlainRegion reports whether a region that a client names can be a value of the template for the region: it has 1 to
// 32 letters, digits and underscores. With other characters, a client could add options of the vendor to the user
// name.
func PlainRegion(s string) bool {
	bad := func(c rune) bool { return c != '_' && !alphanumeric(c) }
	return s != "" && len(s) <= 32 && !strings.ContainsFunc(s, bad)
}

// Fill returns the address with values in place of its templates. It removes all characters of Values.Region except
// letters, digits and "_.-".
func (a Address) Fill(v Values) Address {
	r := strings.NewReplacer(templateSession, v.Session, templateRandom, v.Random,
		templateRegion, strings.Map(regionChar, v.Region))
	a.Username, a.Password = r.Replace(a.Username), Secret(r.Replace(string(a.Password)))
	return a
}

// regionChar returns c, or -1 if a region must not contain c.
func regionChar(c rune) rune {
	if alphanumeric(c) || strings.ContainsRune("_.-", c) {
		return c
	}
	return -1
}

func alphanumeric(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// templates states which templates the user name and password of a proxy have.
type templates struct{ any, anyRegion bool }

// HasTemplates reports whether the user name or password of the proxy has a template (Address.HasTemplates).
func (u *Upstream) HasTemplates() bool { return u.templates.any }

// AnyRegion reports whether the proxy has exits in all regions (Address.AnyRegion).
func (u *Upstream) AnyRegion() bool { return u.templates.anyRegion }
