package source

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"strings"

	"aead.dev/minisign"
)

// key is a public key.
type key interface {
	program() string    // the program that makes signatures with this kind of key
	fileEnding() string // ending of the signature's file name, which begins with the module's file name
	verify(m *Module) bool
}

// parseKey parses a minisign key, with or without its comment line, or a cosign key in PEM.
func parseKey(text string) (key, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "-----BEGIN ") {
		return parsePEM(text)
	}
	var k minisignKey
	if err := k.key.UnmarshalText([]byte(text)); err != nil {
		return nil, errors.New("must be a public key of minisign (RW...) or of cosign (PEM)")
	}
	return k, nil
}

type minisignKey struct{ key minisign.PublicKey }

func (minisignKey) program() string         { return "minisign" }
func (minisignKey) fileEnding() string      { return ".minisig" }
func (k minisignKey) verify(m *Module) bool { return minisign.Verify(k.key, m.Code, m.Signature) }

// cosignKey verifies the output of `cosign sign-blob --key`: a signature of the module, in base64. An ECDSA
// signature is in ASN.1 and signs the SHA-256 of the module.
type cosignKey struct{ key crypto.PublicKey }

func parsePEM(text string) (key, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("must be one public key in PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, errors.New("is not a public key in a known form")
	}
	switch k.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return cosignKey{k}, nil
	}
	return nil, errors.New("must be a key of ECDSA or Ed25519")
}

func (cosignKey) program() string    { return "cosign" }
func (cosignKey) fileEnding() string { return ".sig" }

func (k cosignKey) verify(m *Module) bool {
	signature, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(m.Signature)))
	if err != nil {
		return false
	}
	switch k := k.key.(type) {
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(m.Code)
		return ecdsa.VerifyASN1(k, sum[:], signature)
	case ed25519.PublicKey:
		return ed25519.Verify(k, m.Code, signature)
	}
	return false
}
