package access

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
)

// A bcrypt hash of cost 4 of "open sesame", as htpasswd -B writes it ($2y$).
func bcryptOf(t testing.TB, password string) string {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	require.NoError(t, err)
	return "$2y$" + string(hash[4:])
}

// An argon2id hash of "password", made with the reference implementation:
// echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1
const argonOfPassword = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"

func TestPasswords(t *testing.T) {
	d := newDigester()
	for name, x := range map[string]struct{ configured, right, wrong string }{
		"plain text":    {"open sesame", "open sesame", "open sesam"},
		"like a crypt":  {"$6$salt$hash", "$6$salt$hash", "salt"},
		"bcrypt":        {bcryptOf(t, "open sesame"), "open sesame", "open sesam"},
		"argon2id":      {argonOfPassword, "password", "Password"},
		"own argon2id":  {HashArgon2id("p:w"), "p:w", "p"},
		"the hash sent": {argonOfPassword, "password", argonOfPassword},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, CheckPassword(x.configured))
			p := newPassword(x.configured, d)
			matches := func(text string) bool {
				sum := d.digest(text)
				ok, decided := p.checkDigest(sum)
				if !decided {
					ok = p.checkHash(text, sum)
				}
				return ok
			}
			require.False(t, matches(x.wrong))
			require.True(t, matches(x.right))
			ok, decided := p.checkDigest(d.digest(x.right))
			require.True(t, ok && decided, "a verified password is not hashed again")
			require.False(t, matches(x.wrong))
		})
	}
}

func TestInvalidHashesAreRefused(t *testing.T) {
	tail := "$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for configured, want := range map[string]string{
		"$2b$":  "is not one",
		"$2y$x": "is not one",
		"$2b$15$abcdefghijklmnopqrstuuBYTuCSELBI3u4FSM0TNqTZk71jXm8Wi": "cost 15",
		"$argon2id$":                                        "is not one",
		"$argon2id$v=18$m=65536,t=2,p=1" + tail:             "is not one",
		"$argon2id$v=19$m=65536,t=0,p=1" + tail:             "is not one",
		"$argon2id$v=19$m=65536,t=2" + tail:                 "is not one",
		"$argon2id$v=19$m=65536,t=2,p=1,x" + tail:           "is not one",
		"$argon2id$v=19$m=-1,t=2,p=1" + tail:                "is not one",
		"$argon2id$v=19$m=65536,t=2,p=300" + tail:           "is not one",
		"$argon2id$v=19$m=9999999,t=2,p=1" + tail:           "at most",
		"$argon2id$v=19$m=65536,t=99,p=1" + tail:            "at most",
		"$argon2id$v=19$m=65536,t=2,p=1$c2FsdA" + tail[12:]: "is not one",
	} {
		err := CheckPassword(configured)
		require.ErrorContains(t, err, want, configured)
		require.NotContains(t, err.Error(), "CTFh", "an error has no part of the hash")
	}
	_, err := HashBcrypt(strings.Repeat("x", 73))
	require.ErrorIs(t, err, ErrBcryptLength)
}

func FuzzCheckPassword(f *testing.F) {
	f.Add(argonOfPassword)
	f.Add("$2y$10$abcdefghijklmnopqrstuuBYTuCSELBI3u4FSM0TNqTZk71jXm8Wi")
	f.Add("$argon2id$v=19$m=1,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, configured string) {
		err := CheckPassword(configured)
		if err != nil && !IsHash(configured) {
			t.Fatalf("the plain text %q is refused: %v", configured, err)
		}
		if h, _ := parseHash(configured); h != nil {
			if a, ok := h.(*argonHash); ok && a.memory <= 64 && a.time <= 2 {
				a.matches("x") // does not panic
			}
		}
	})
}
