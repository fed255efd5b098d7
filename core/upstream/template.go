package upstream

import "strings"

// The templates in the user name and password of an address. A proxy vendor has many exits behind one address, and
// chooses the exit by a part of the user name. So one proxy of the pool has many exits.
const (
	templateSession = "{session}" // the session of the request, or random
	templateRandom  = "{rand8}"   // 8 random letters and digits
	templateRegion  = "{region}"  // the region that the request wants, or that of the proxy
)

// Values are the values of the templates of an address.
type Values struct{ Session, Random, Region string }

// Templated reports whether the user name or password has a template.
func (a Address) Templated() bool {
	return a.has(templateSession) || a.has(templateRandom) || a.has(templateRegion)
}

// Random reports whether the user name or password has a template whose value is random. session is whether the
// request has a session.
func (a Address) Random(session bool) bool {
	return a.has(templateRandom) || !session && a.has(templateSession)
}

// AnyRegion reports whether the user name or password has the template of the region: the proxy has exits in all
// regions.
func (a Address) AnyRegion() bool { return a.has(templateRegion) }

func (a Address) has(template string) bool {
	return strings.Contains(a.Username, template) || strings.Contains(string(a.Password), template)
}

// Fill returns the address with values in place of its templates. Of Region only letters, digits and "_.-" are used: it
// may come from a client, which must not change other parts of the login.
func (a Address) Fill(v Values) Address {
	r := strings.NewReplacer(templateSession, v.Session, templateRandom, v.Random,
		templateRegion, strings.Map(regionChar, v.Region))
	a.Username, a.Password = r.Replace(a.Username), Secret(r.Replace(string(a.Password)))
	return a
}

// regionChar returns c, or -1 if c is not allowed in a region.
func regionChar(c rune) rune {
	if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("_.-", c) {
		return c
	}
	return -1
}

// logins are the templates of a proxy's login.
type logins struct{ templated, anyRegion bool }

// Templated is Address.Templated.
func (u *Upstream) Templated() bool { return u.login.templated }

// AnyRegion is Address.AnyRegion.
func (u *Upstream) AnyRegion() bool { return u.login.anyRegion }
