package source

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"testing"

	"aead.dev/minisign"
	"github.com/stretchr/testify/require"
)

var (
	code     = []byte("\x00asm a module")
	codeSum  = hexOf(code)
	otherSum = hexOf([]byte("another"))
)

func hexOf(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// signer is a public key with a signature of code.
type signer struct{ public, signature string }

func minisigner(t testing.TB) signer {
	public, private, err := minisign.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return signer{public.String(), string(minisign.Sign(private, code))}
}

func pemOf(t testing.TB, public any) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// cosigner makes a signature as cosign sign-blob does.
func cosigner(t testing.TB) signer {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	sum := sha256.Sum256(code)
	signature, err := ecdsa.SignASN1(rand.Reader, private, sum[:])
	require.NoError(t, err)
	return signer{pemOf(t, &private.PublicKey), base64.StdEncoding.EncodeToString(signature) + "\n"}
}

func edSigner(t testing.TB) signer {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	return signer{pemOf(t, public), base64.StdEncoding.EncodeToString(ed25519.Sign(private, code))}
}

func TestCheck(t *testing.T) {
	digest := "@sha256:" + codeSum
	mini, cos := minisigner(t), cosigner(t)
	for _, c := range []struct {
		name   string
		source Source
		field  string // "" for none
		says   string
	}{
		{"a sum", Source{URL: "https://a.test/m.wasm", SHA256: codeSum}, "", ""},
		{"a query", Source{URL: "https://a.test/m.wasm?token=x", SHA256: strings.ToUpper(codeSum)}, "", ""},
		{"minisign", Source{URL: "https://a.test/m.wasm", PublicKey: mini.public}, "", ""},
		{"minisign's file", Source{URL: "https://a.test/m.wasm",
			PublicKey: "untrusted comment: minisign public key 1\n" + mini.public + "\n"}, "", ""},
		{"cosign", Source{URL: "https://a.test/m.wasm", PublicKey: cos.public}, "", ""},
		{"a digest", Source{URL: "oci://r.test:5000/team/mine" + digest}, "", ""},
		{"a tag and a digest", Source{URL: "oci://r.test/team/mine:1.0" + digest}, "", ""},
		{"a tag and a sum", Source{URL: "oci://r.test/team/mine:1.0", SHA256: codeSum}, "", ""},
		{"insecure", Source{URL: "http://a.test/m.wasm", Insecure: true}, "", ""},
		{"insecure registry", Source{URL: "oci+http://a.test/m:1", Insecure: true}, "", ""},

		{"unverified", Source{URL: "https://a.test/m.wasm"}, "url", "nothing verifies the module"},
		{"unverified tag", Source{URL: "oci://r.test/team/mine:1.0"}, "url", "nothing verifies the module"},
		{"plain", Source{URL: "http://a.test/m.wasm", SHA256: codeSum}, "url", "use https://"},
		{"plain registry", Source{URL: "oci+http://a.test/m" + digest}, "url", "use oci://"},
		{"no reference", Source{URL: "oci://r.test/team/mine", Insecure: true}, "url", "must be oci://"},
		{"no repository", Source{URL: "oci://r.test", Insecure: true}, "url", "must be oci://"},
		{"another digest", Source{URL: "oci://r.test/m@sha256:abc", Insecure: true}, "url", "must be oci://"},
		{"no scheme", Source{URL: "mine.wasm", Insecure: true}, "url", "must begin with https://"},
		{"file", Source{URL: "file:///etc/passwd", Insecure: true}, "url", "must begin with https://"},
		{"a user", Source{URL: "https://me:secret@a.test/m.wasm", SHA256: codeSum}, "url", "neither a user"},
		{"no host", Source{URL: "https:///m.wasm", SHA256: codeSum}, "url", "must have a host"},
		{"no URL", Source{URL: "https://a b/\x00secret", SHA256: codeSum}, "url", "is not a URL"},
		{"short sum", Source{URL: "https://a.test/m.wasm", SHA256: "abc"}, "sha256", "64 hexadecimal"},
		{"no key", Source{URL: "https://a.test/m.wasm", PublicKey: "RWsecret"}, "public_key", "minisign (RW...)"},
		{"a private key", Source{URL: "https://a.test/m.wasm",
			PublicKey: "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----"}, "public_key", "PEM"},
		{"two keys", Source{URL: "https://a.test/m.wasm", PublicKey: cos.public + cos.public}, "public_key", "one"},
	} {
		err := c.source.Check()
		if c.field == "" {
			require.NoError(t, err, c.name)
			continue
		}
		var field *FieldError
		require.ErrorAs(t, err, &field, c.name)
		require.Equal(t, c.field, field.Field, c.name)
		require.ErrorContains(t, err, c.says, c.name)
		require.NotContains(t, err.Error(), "secret", c.name)
	}
}

func TestVerify(t *testing.T) {
	changed := append([]byte("x"), code...)
	for name, s := range map[string]signer{"minisign": minisigner(t), "cosign": cosigner(t), "Ed25519": edSigner(t)} {
		by := Source{PublicKey: s.public}
		require.NoError(t, by.Verify(&Module{code, []byte(s.signature)}), name)
		require.ErrorContains(t, by.Verify(&Module{changed, []byte(s.signature)}), "does not match", name)
		require.ErrorContains(t, by.Verify(&Module{code, nil}), "does not match", name)
		require.ErrorContains(t, by.Verify(&Module{code, []byte("?")}), "does not match", name)
		by.SHA256 = otherSum
		require.ErrorContains(t, by.Verify(&Module{code, []byte(s.signature)}), "another SHA-256: "+codeSum, name)
	}
	a, b := minisigner(t), minisigner(t)
	require.Error(t, Source{PublicKey: a.public}.Verify(&Module{code, []byte(b.signature)}), "of another key")
	require.NoError(t, Source{SHA256: strings.ToUpper(codeSum)}.Verify(&Module{Code: code}))
	require.NoError(t, Source{}.Verify(&Module{Code: code}))
}

func TestPinned(t *testing.T) {
	require.True(t, Source{URL: "https://a.test/m", SHA256: codeSum}.Pinned())
	require.True(t, Source{URL: "oci://a.test/m@sha256:" + codeSum}.Pinned())
	require.False(t, Source{URL: "oci://a.test/m:1"}.Pinned())
	require.False(t, Source{URL: "https://a.test/m@sha256:" + codeSum}.Pinned())
	require.Equal(t, "https://a.test/m", Source{URL: "https://a.test/m?token=secret"}.URLWithoutQuery())
}

func FuzzCheck(f *testing.F) {
	s := minisigner(f)
	f.Add("https://a.test/m", codeSum, s.public, false)
	f.Add("oci://a.test/m@sha256:"+codeSum, "", cosigner(f).public, true)
	f.Add("oci+http://[::1]:5000/m:1", "", "-----BEGIN PUBLIC KEY-----", true)
	f.Fuzz(func(t *testing.T, url, sum, key string, insecure bool) {
		s := Source{url, sum, key, insecure}
		if s.Check() != nil {
			return
		}
		require.True(t, insecure || s.Pinned() || key != "", "something verifies it")
		require.True(t, insecure || strings.HasPrefix(strings.ToLower(url), "https://") || s.isArtifact())
	})
}

func FuzzVerify(f *testing.F) {
	all := []signer{minisigner(f), cosigner(f), edSigner(f)}
	for i, s := range all {
		f.Add(i, []byte(s.signature))
	}
	f.Fuzz(func(t *testing.T, i int, signature []byte) {
		if i < 0 || i >= len(all) {
			return
		}
		require.Error(t, Source{PublicKey: all[i].public}.Verify(&Module{append([]byte{1}, code...), signature}))
	})
}
