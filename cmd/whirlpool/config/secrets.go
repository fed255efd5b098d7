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

// expandSecrets replaces references by secrets. A password or an API key may be a reference {env:NAME}, and the URL of
// a proxy may contain such references. The key password_file of a user refers to a file with the password.
func (l *loader) expandSecrets() {
	c := &l.cfg
	for i := range c.Gateway.Users {
		u, key := &c.Gateway.Users[i], fmt.Sprintf("gateway.users[%d]", i)
		switch {
		case u.PasswordFile == "":
			u.Password = l.expandSecret(key+".password", u.Password)
		case u.Password != "":
			l.addFault(key+".password_file", nil, "cannot be set together with password; give one of them")
		default:
			u.Password = l.readPasswordFile(key+".password_file", u.PasswordFile)
		}
	}
	for i := range c.API.Keys {
		k := &c.API.Keys[i]
		k.Key = l.expandSecret(fmt.Sprintf("api.keys[%d].key", i), k.Key)
	}
	for i := range c.Proxies {
		p := &c.Proxies[i]
		p.URL = Address(l.expandReferences(fmt.Sprintf("proxies[%d].url", i), string(p.URL), url.PathEscape))
	}
}

func (l *loader) expandSecret(key string, s upstream.Secret) upstream.Secret {
	if text := s.Reveal(); envReference.FindString(text) == text {
		return upstream.Secret(l.expandReferences(key, text, nil))
	}
	return s
}

// expandReferences replaces each reference in text by the value of its environment variable. It escapes the value
// unless the whole text is one reference. A variable that is not set is a fault of the key.
func (l *loader) expandReferences(key, text string, escape func(string) string) string {
	return envReference.ReplaceAllStringFunc(text, func(reference string) string {
		name := envReference.FindStringSubmatch(reference)[1]
		value, set := l.lookupEnv(name)
		switch {
		case !set:
			l.addFault(key, nil, "refers to the environment variable "+name+", which is not set")
			l.unset[key] = true
		case reference != text:
			return escape(value)
		}
		return value
	})
}

// lookupEnv returns the value of an environment variable; set is false if the variable is not set.
func (l *loader) lookupEnv(name string) (value string, set bool) {
	for _, v := range l.src.Environ {
		if rest, ok := strings.CutPrefix(v, name+"="); ok {
			value, set = rest, true // if the variable is set several times, the last value counts
		}
	}
	return value, set
}

// readPasswordFile reads a password, or its hash, from the first line of a file that the gateway then watches.
func (l *loader) readPasswordFile(key, path string) upstream.Secret {
	path = l.resolvePath(path)
	l.cfg.files = append(l.cfg.files, path)
	data, err := l.readFile(path, maxSecret)
	if err != nil {
		l.addFault(key, nil, err.Error())
		return ""
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		l.addFault(key, nil, path+" has an empty first line; it must be a password or its hash")
	}
	return upstream.Secret(line)
}

func (l *loader) checkPassword(key string, u *User) {
	if u.PasswordFile != "" {
		key += ".password_file"
	} else {
		key += ".password"
	}
	if l.unset[key] {
		return
	}
	if err := access.CheckPassword(u.Password.Reveal()); err != nil {
		l.addFault(key, nil, err.Error())
	}
	if u.Password == "" && u.PasswordFile == "" && l.cfg.Gateway.TLS.ClientCA == "" {
		l.addFault(key, nil, "is missing; a user without one needs a client certificate (gateway.tls.client_ca)")
	}
}
