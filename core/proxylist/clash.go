package proxylist

import (
	"errors"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// clashKey is the line before the proxies in a configuration (YAML) of the program Clash.
const clashKey = "proxies:"

// errYAML does not quote the document, which may contain credentials.
const errYAML = "the list of proxies is not valid YAML"

var errElement = errors.New("the element is not a proxy with type, server and port")

// parseClash parses the proxies of a Clash configuration. The reader has the lines after clashKey, which is the line
// with the number n. The lines before it are other settings of Clash, so parseClash discards what was read from them.
func (l *listParser) parseClash(n int, in io.Reader) error {
	rest, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	if l.Original != nil {
		*l.Original = Original{}
	}
	l.entryText = ""
	l.specs, l.warnings = nil, nil
	l.describedLines, l.textLines, l.guessedLogins = lineCount{}, lineCount{}, lineCount{}
	clear(l.Counts.Forms)
	clear(l.Counts.Skipped)
	clear(l.Counts.Warnings)
	clear(l.lineByHash)
	var document struct {
		Proxies []yaml.Node `yaml:"proxies"`
	}
	if yaml.Unmarshal(append([]byte(clashKey+"\n"), rest...), &document) != nil {
		l.warn(n, errYAML)
		return nil
	}
	for i := range document.Proxies {
		l.addClash(n+document.Proxies[i].Line-1, &document.Proxies[i])
	}
	return nil
}

// parseClashLine parses a line with one proxy of a Clash configuration, such as - {name: a, type: socks5, ...}. It
// returns false for any other line.
func (l *listParser) parseClashLine(n int, line string) bool {
	object := strings.TrimSpace(strings.TrimPrefix(line, "-"))
	if !strings.HasPrefix(object, "{") || !strings.HasSuffix(object, "}") {
		return false
	}
	var node yaml.Node
	if yaml.Unmarshal([]byte(object), &node) != nil {
		return false
	}
	l.addClash(n, &node)
	return true
}

// addClash adds the proxy of a node, which begins at line n.
func (l *listParser) addClash(n int, node *yaml.Node) {
	if node.Kind == yaml.ScalarNode {
		spec, warning, err := parseAddress(node.Value, l.Scheme)
		l.add(n, formClash, spec, warning, err)
		return
	}
	var p map[string]any
	if node.Decode(&p) != nil {
		l.skip(n, errElement)
		return
	}
	var v fieldValues
	v.setAll(p)
	spec, err := v.spec(l.Scheme)
	if p["tls"] == true && spec.Address.Scheme == upstream.HTTP {
		spec.Address.Scheme = upstream.HTTPS
		if p["skip-cert-verify"] == true {
			spec.ChangeExtras(func(e *upstream.Extras) {
				e.TLS = &upstream.TLS{TLSOptions: upstream.TLSOptions{Insecure: true}}
			})
		}
	}
	l.add(n, formClash, spec, "", err)
}
