package config

import (
	"bytes"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/access"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// envReference matches {env:NAME}, which stands for the value of an environment variable.
var envReference = regexp.MustCompile(`\{env:([A-Za-z_][A-Za-z0-9_]*)\}`)

// secrets replaces references by secrets. A password or an API key of the form {env:NAME} becomes the value of the
// environment variable. In the URL of a proxy, each {env:NAME} becomes the value of its variable. The text in the file
// password_file becomes the password of its user.
func (l *loader) secrets() {
	c := &l.cfg
	for i := range c.Gateway.Users {
		u, key := &c.Gateway.Users[i], fmt.Sprintf("gateway.users[%d]", i)
		switch {
		case u.PasswordFile == "":
			u.Password = l.secret(key+".password", u.Password)
		case u.Password != "":
			l.fault(key+".password_file", nil, "cannot be set together with password; give one of them")
		default:
			u.Password = l.passwordFile(key+".password_file", u.PasswordFile)
		}
	}
	for i := range c.API.Keys {
		k := &c.API.Keys[i]
		k.Key = l.secret(fmt.Sprintf("api.keys[%d].key", i), k.Key)
	}
	for i := range c.Proxies {
		p := &c.Proxies[i]
		p.URL = Address(l.expand(fmt.Sprintf("proxies[%d].url", i), string(p.URL), url.PathEscape))
	}
}

// secret returns the secret s or, if s is a reference to an environment variable, the value of the variable.
func (l *loader) secret(key string, s upstream.Secret) upstream.Secret {
	if text := s.Reveal(); envReference.FindString(text) == text {
		return upstream.Secret(l.expand(key, text, nil))
	}
	return s
}

// expand replaces each reference in text by the value of its environment variable. It applies escape to the values,
// unless text consists of a single reference. If a variable is not set, expand adds a fault of the key.
func (l *loader) expand(key, text string, escape func(string) string) string {
	return envReference.ReplaceAllStringFunc(text, func(reference string) string {
		name := envReference.FindStringSubmatch(reference)[1]
		value, set := l.variable(name)
		switch {
		case !set:
			l.fault(key, nil, "refers to the environment variable "+name+", which is not set")
		case reference != text:
			return escape(value)
		}
		return value
	})
}

// variable returns the value of an environment variable; set is false if the variable is not set.
func (l *loader) variable(name string) (value string, set bool) {
	for _, v := range l.src.Environ {
		if rest, ok := strings.CutPrefix(v, name+"="); ok {
			value, set = rest, true // if the variable is set several times, the last value counts
		}
	}
	return value, set
}

// passwordFile reads a password, or the hash of a password, from the first line of a file. A change of the file makes
// the gateway reload the configuration.
func (l *loader) passwordFile(key, path string) upstream.Secret {
	path = l.relative(path)
	l.cfg.files = append(l.cfg.files, path)
	data, err := l.readFile(path, maxSecret)
	if err != nil {
		l.fault(key, nil, err.Error())
		return ""
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		l.fault(key, nil, path+" has an empty first line; it must be a password or its hash")
	}
	return upstream.Secret(line)
}

// password checks the password of a user.
func (l *loader) password(key string, u *User) {
	if u.PasswordFile != "" {
		key += ".password_file"
	} else {
		key += ".password"
	}
	if err := access.CheckPassword(u.Password.Reveal()); err != nil {
		l.fault(key, nil, err.Error())
	}
	if u.Password == "" && u.PasswordFile == "" && l.cfg.Gateway.TLS.ClientCA == "" {
		l.fault(key, nil, "is missing; a user without one needs a client certificate (gateway.tls.client_ca)")
	}
}
