// Package source fetches modules from URLs: https://, or oci:// for an artifact in a registry (OCI
// distribution specification 1.1). A module is verified before it is used: by its SHA-256, by the digest of
// the artifact, or by a signature of minisign (https://jedisct1.github.io/minisign/) or cosign sign-blob.
package source

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"oras.land/oras-go/v2/registry"
)

// Source determines where a module comes from and how it is verified. The zero Source stands for none.
type Source struct {
	URL       string // https://..., or oci://REGISTRY/REPOSITORY with :TAG or @sha256:DIGEST
	SHA256    string // SHA-256 of the module, in hexadecimal; "" if it is not checked
	PublicKey string // key of minisign, or key of cosign in PEM; "" for none
	Insecure  bool   // permits http://, oci+http:// and modules that are not verified
}

// FieldError reports an error in one field of a Source.
type FieldError struct {
	Field string // url, sha256 or public_key
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

func fieldError(field, format string, args ...any) error {
	return &FieldError{field, fmt.Errorf(format, args...)}
}

var sha256Pattern = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)

// Check returns the first error in s, a *FieldError. The text of the error does not contain the URL, because the URL
// may hold a secret.
func (s Source) Check() error {
	u, err := url.Parse(s.URL)
	if err != nil {
		return fieldError("url", "is not a URL")
	}
	switch plain := u.Scheme == "http" || u.Scheme == "oci+http"; {
	case !plain && u.Scheme != "https" && u.Scheme != "oci":
		return fieldError("url", "must begin with https:// or oci://")
	case plain && !s.Insecure:
		return fieldError("url", "%s:// can be read and changed on the way; use %s://, or set insecure = true",
			u.Scheme,
			map[string]string{"http": "https", "oci+http": "oci"}[u.Scheme])
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return fieldError("url", "must have a host, and neither a user nor a fragment")
	}
	if u.Scheme == "oci" || u.Scheme == "oci+http" {
		if _, err := s.artifact(); err != nil {
			return fieldError("url", "must be oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:DIGEST")
		}
	}
	if s.SHA256 != "" && !sha256Pattern.MatchString(s.SHA256) {
		return fieldError("sha256", "must have 64 hexadecimal digits")
	}
	if s.PublicKey != "" {
		if _, err := parseKey(s.PublicKey); err != nil {
			return fieldError("public_key", "%w", err)
		}
	}
	if !s.Pinned() && s.PublicKey == "" && !s.Insecure {
		return fieldError("url", "nothing verifies the module: give sha256, public_key or the digest of an oci:// "+
			"artifact, or set insecure = true")
	}
	return nil
}

// Pinned reports whether s can lead to only one module, because s has the SHA-256 of the module or the digest of the
// artifact.
func (s Source) Pinned() bool {
	if s.SHA256 != "" {
		return true
	}
	ref, err := s.artifact()
	return err == nil && ref.ValidateReferenceAsDigest() == nil
}

// The schemes of the URLs of artifacts. plainOCI is the scheme for a registry without TLS.
const (
	httpsOCI = "oci://"
	plainOCI = "oci+http://"
)

func (s Source) isArtifact() bool {
	return strings.HasPrefix(s.URL, httpsOCI) || strings.HasPrefix(s.URL, plainOCI)
}

func (s Source) artifact() (registry.Reference, error) {
	if !s.isArtifact() {
		return registry.Reference{}, errors.New("it is not an oci:// URL")
	}
	_, name, _ := strings.Cut(s.URL, "://")
	ref, err := registry.ParseReference(name)
	if err == nil && ref.Reference == "" {
		err = errors.New("it has neither tag nor digest")
	}
	return ref, err
}

// URLWithoutQuery returns the URL for logs and responses, without its query, because the query may hold a secret.
func (s Source) URLWithoutQuery() string {
	place, _, _ := strings.Cut(s.URL, "?")
	return place
}

// Module is a module with its signature.
type Module struct {
	Code      []byte
	Signature []byte // nil without a public key
}

// Verify returns an error if the module does not have the SHA-256 of s, or if its signature does not match the public
// key of s. Without a SHA-256 or without a public key in s, that check is left out.
func (s Source) Verify(m *Module) error {
	got := sha256.Sum256(m.Code)
	if s.SHA256 != "" && !strings.EqualFold(hex.EncodeToString(got[:]), s.SHA256) {
		return fmt.Errorf("the module has another SHA-256: %x", got)
	}
	if s.PublicKey == "" {
		return nil
	}
	key, err := parseKey(s.PublicKey)
	if err != nil {
		return err
	}
	if !key.verify(m) {
		return fmt.Errorf("the signature of %s does not match the module and public_key", key.program())
	}
	return nil
}
