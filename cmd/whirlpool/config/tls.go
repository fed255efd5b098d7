package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// TLS is the table [gateway.tls] or [api.tls]: the paths of the files with a listener's certificate and key. If the
// table is empty, the listener has no TLS.
type TLS struct {
	Cert     string `koanf:"cert" json:"cert,omitempty"`           // PEM: the certificate, then its chain
	Key      string `koanf:"key" json:"key,omitempty"`             // PEM
	ClientCA string `koanf:"client_ca" json:"client_ca,omitempty"` // PEM: authorities of client certificates
}

// loadListenerTLS reads the files of t, and returns the TLS settings of the listener; nil without TLS. A change of one
// of the files makes the gateway reload the configuration. The parameter key is the key of the table.
func (l *loader) loadListenerTLS(key string, t TLS) *tls.Config {
	if t == (TLS{}) {
		return nil
	}
	if t.Cert == "" || t.Key == "" {
		l.addFault(key, nil, "needs both cert and key")
		return nil
	}
	pair := l.readKeyPair(key, t.Cert, t.Key)
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if pair != nil {
		config.Certificates = []tls.Certificate{*pair}
	}
	if t.ClientCA != "" {
		config.ClientCAs, config.ClientAuth = l.readAuthorities(key+".client_ca",
			t.ClientCA), tls.VerifyClientCertIfGiven
	}
	return config
}

// readKeyPair reads a certificate and its private key. If it cannot read them, it adds a fault and returns nil. The
// parameter key is the key of the table in the configuration.
func (l *loader) readKeyPair(key, cert, private string) *tls.Certificate {
	certPEM, ok := l.readPEM(key+".cert", cert)
	keyPEM, keyOK := l.readPEM(key+".key", private)
	if !ok || !keyOK {
		return nil
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		l.addFault(key, nil, "cert and key are not a certificate and its key: "+err.Error())
		return nil
	}
	return &pair
}

// readAuthorities reads the certificates of authorities from a file. If it cannot read them, it adds a fault and
// returns nil.
func (l *loader) readAuthorities(key, path string) *x509.CertPool {
	data, ok := l.readPEM(key, path)
	if !ok {
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		l.addFault(key, nil, "has no certificate in PEM form")
		return nil
	}
	return pool
}

var errPEM = errors.New("is not a file in PEM form (-----BEGIN ...)")

// readPEM reads a PEM file. If it cannot read the file, it adds a fault and returns false. A change of the file makes
// the gateway reload the configuration.
func (l *loader) readPEM(key, path string) (data []byte, ok bool) {
	path = l.resolvePath(path)
	l.cfg.files = append(l.cfg.files, path)
	data, err := l.readFile(path, maxPEM)
	if err == nil && !bytes.Contains(data, []byte("-----BEGIN ")) {
		err = errPEM
	}
	if err != nil {
		l.addFault(key, nil, err.Error())
		return nil, false
	}
	return data, true
}

// loadTLSTables reads the certificates of both listeners, and warns if passwords or API keys go over the network in
// clear text.
func (l *loader) loadTLSTables() {
	c := &l.cfg
	c.gatewayTLS, c.apiTLS = l.loadListenerTLS("gateway.tls", c.Gateway.TLS), l.loadListenerTLS("api.tls", c.API.TLS)
	warn := func(key, listen, what, section string) {
		if checkListen(listen) == nil && !Loopback(listen) {
			c.Warnings = append(c.Warnings, key+": "+what+" go to "+listen+" in clear text; set cert and key in "+
				section+".tls, or listen on 127.0.0.1")
		}
	}
	if len(c.Gateway.Users) > 0 && c.gatewayTLS == nil {
		warn("gateway.listen", c.Gateway.Listen, "the passwords of users", "gateway")
	}
	if len(c.API.Keys) > 0 && c.apiTLS == nil {
		warn("api.listen", c.API.Listen, "keys", "api")
	}
	if c.Gateway.TLS.ClientCA != "" && len(c.Gateway.Users) == 0 {
		l.addFault("gateway.tls.client_ca", nil,
			"has no effect without [[gateway.users]], whose names are those of client certificates")
	}
}

// APITLS returns the TLS settings of the API's listener; nil without TLS.
func (c *Config) APITLS() *tls.Config { return c.apiTLS }

// GatewayTLS reports whether the gateway's listener has TLS.
func (c *Config) GatewayTLS() bool { return c.gatewayTLS != nil }

// ListFile returns the path of a file that a proxy list names. A relative name is resolved against the folder of the
// list. A list that was fetched by URL cannot name files of this machine.
func ListFile(list, path string) (string, error) {
	switch {
	case strings.Contains(list, "://") || list == Stdin:
		return "", errors.New("only a list in a file of this machine can name files")
	case filepath.IsAbs(path):
		return path, nil
	}
	return filepath.Join(filepath.Dir(list), path), nil
}

// loadTLS reads the TLS files of an https:// proxy. A change of one of these files makes the gateway reload the
// configuration. The parameter list is the path or URL of the proxy list that names the files; "" if the configuration
// file names them.
func (l *loader) loadTLS(list string, o upstream.TLSOptions) (*upstream.TLS, error) {
	key := listOptions{list, o}
	if loaded, ok := l.proxyTLS[key]; ok {
		return loaded, nil
	}
	loaded, err := upstream.LoadTLS(o, func(path string) (data []byte, err error) {
		if list == "" {
			path = l.resolvePath(path)
		} else if path, err = ListFile(list, path); err != nil {
			return nil, err
		}
		l.cfg.files = append(l.cfg.files, path)
		return l.readFile(path, maxPEM)
	})
	if err == nil {
		l.proxyTLS[key] = loaded
	}
	return loaded, err
}

// listOptions are the arguments of loadTLS: the TLS options of a proxy, and the proxy list that sets them.
type listOptions struct {
	list string // "" for the configuration file
	upstream.TLSOptions
}

// keepLoadable reads the TLS files of the proxies of a list. It returns the proxies that have no TLS files, and the
// proxies whose TLS files can be read. It adds a warning for each proxy that it leaves out.
func (l *loader) keepLoadable(list string, specs []upstream.Spec) []upstream.Spec {
	return slices.DeleteFunc(specs, func(s upstream.Spec) bool {
		if s.Extra().TLS == nil {
			return false
		}
		_, err := l.loadTLS(list, s.Extra().TLS.TLSOptions)
		var bad *upstream.SpecError
		if errors.As(err, &bad) {
			l.cfg.Warnings = append(l.cfg.Warnings, list+": the proxy "+s.Address.Redacted()+" is left out: "+bad.Msg)
		}
		return err != nil
	})
}
