package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// The limits on the parameters of configured hashes. With larger parameters, a login would take seconds, or too
// much memory.
const (
	maxBcryptCost   = 14
	maxArgonMemory  = 256 << 10 // KiB
	maxArgonTime    = 16
	maxArgonThreads = 16
	minSalt, maxKey = 8, 128 // bytes
)

// The parameters of new hashes. The parameters of argon2id come from OWASP's Password Storage Cheat Sheet. The cost of
// bcrypt is the default of package bcrypt increased by two.
const (
	argonMemory  = 19 << 10 // KiB
	argonTime    = 2
	argonThreads = 1
	argonSalt    = 16 // bytes
	argonKey     = 32 // bytes
	bcryptCost   = 12
)

// ErrBcryptLength reports that a password is too long for bcrypt.
var ErrBcryptLength = errors.New("bcrypt takes passwords of at most 72 bytes; argon2id has no limit")

// HashArgon2id returns the argon2id hash (RFC 9106) of a password in the PHC string format.
func HashArgon2id(secret string) string {
	salt := make([]byte, argonSalt)
	rand.Read(salt) // never fails
	h := argonHash{memory: argonMemory, time: argonTime, threads: argonThreads, salt: salt}
	key := h.derive(secret, argonKey)
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.threads,
		enc.EncodeToString(salt), enc.EncodeToString(key))
}

// HashBcrypt returns the bcrypt hash of a password. For a password of more than 72 bytes, the error is
// ErrBcryptLength.
func HashBcrypt(secret string) (string, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(secret), bcryptCost)
	if errors.Is(err, bcrypt.ErrPasswordTooLong) {
		err = ErrBcryptLength
	}
	return string(hash), err
}

// CheckPassword returns an error if a configured password begins like a hash but is not a valid one. Any other text is
// a password in plain text.
func CheckPassword(configured string) error {
	_, err := parseHash(configured)
	return err
}

// IsHash reports whether a configured password begins like a hash.
func IsHash(configured string) bool {
	for _, prefix := range []string{"$argon2id$", "$2a$", "$2b$", "$2y$"} {
		if strings.HasPrefix(configured, prefix) {
			return true
		}
	}
	return false
}

// hash is a hash of a password.
type hash interface {
	// matches reports whether the password has this hash. A call takes tens of milliseconds of processor time.
	matches(password string) bool
}

// parseHash parses a configured hash. For a text that does not begin like a hash, it returns nil without an error.
func parseHash(configured string) (hash, error) {
	switch {
	case !IsHash(configured):
		return nil, nil
	case strings.HasPrefix(configured, "$argon2id$"):
		h, err := parseArgon(configured)
		if err != nil {
			return nil, err
		}
		return h, nil
	}
	cost, err := bcrypt.Cost([]byte(configured))
	switch {
	case err != nil:
		return nil, errors.New("begins like a bcrypt hash, but is not one")
	case cost > maxBcryptCost:
		return nil, fmt.Errorf("is a bcrypt hash of cost %d; at most %d is allowed", cost, maxBcryptCost)
	}
	return bcryptHash(configured), nil
}

type bcryptHash string

func (h bcryptHash) matches(password string) bool {
	return bcrypt.CompareHashAndPassword([]byte(h), []byte(password)) == nil
}

// argonHash is an argon2id hash.
type argonHash struct {
	memory, time uint32 // memory in KiB
	threads      uint8
	salt, key    []byte
}

func parseArgon(configured string) (*argonHash, error) {
	bad := errors.New("begins like an argon2id hash, but is not one: $argon2id$v=19$m=...,t=...,p=...$SALT$HASH")
	parts := strings.Split(configured, "$")
	if len(parts) != 6 || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return nil, bad
	}
	h := &argonHash{}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads); n != 3 || err != nil ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", h.memory, h.time, h.threads) {
		return nil, bad
	}
	var err, keyErr error
	h.salt, err = base64.RawStdEncoding.DecodeString(parts[4])
	h.key, keyErr = base64.RawStdEncoding.DecodeString(parts[5])
	switch {
	case err != nil || keyErr != nil || h.time < 1 || h.threads < 1 || len(h.salt) < minSalt || len(h.key) < minSalt ||
		len(h.key) > maxKey:
		return nil, bad
	case h.memory > maxArgonMemory || h.time > maxArgonTime || h.threads > maxArgonThreads:
		return nil, fmt.Errorf("is an argon2id hash with m=%d,t=%d,p=%d; at most m=%d,t=%d,p=%d is allowed",
			h.memory, h.time, h.threads, maxArgonMemory, maxArgonTime, maxArgonThreads)
	}
	return h, nil
}

func (h *argonHash) derive(password string, length int) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, uint32(length))
}

func (h *argonHash) matches(password string) bool {
	return subtle.ConstantTimeCompare(h.derive(password, len(h.key)), h.key) == 1
}

// digest is a hash of a password or a user name, with a key of this process.
type digest [sha256.Size]byte

// digester is the random key of digests.
type digester [sha256.Size]byte

func newDigester() *digester {
	d := &digester{}
	rand.Read(d[:]) // never fails
	return d
}

func (d *digester) digest(text string) (sum digest) {
	mac := hmac.New(sha256.New, d[:])
	mac.Write([]byte(text))
	mac.Sum(sum[:0])
	return sum
}

// password checks one user's password. If the configuration has the password in plain text, verifiedDigest is set from
// the beginning. Otherwise it is set at the first correct login.
type password struct {
	hash           hash // nil for a plain text
	verifiedDigest atomic.Pointer[digest]
}

// newPassword returns the password for a configured text, which CheckPassword must have accepted.
func newPassword(configured string, d *digester) *password {
	p := &password{}
	p.hash, _ = parseHash(configured)
	if p.hash == nil {
		sum := d.digest(configured)
		p.verifiedDigest.Store(&sum)
	}
	return p
}

// checkDigest checks a password by its digest. The second result is false if the hash must be computed.
func (p *password) checkDigest(sum digest) (ok, decided bool) {
	if known := p.verifiedDigest.Load(); known != nil && subtle.ConstantTimeCompare(known[:], sum[:]) == 1 {
		return true, true
	}
	return false, p.hash == nil
}

// checkHash checks a password, whose digest is sum, by its hash. This takes tens of milliseconds.
func (p *password) checkHash(text string, sum digest) bool {
	if p.hash == nil || !p.hash.matches(text) {
		return false
	}
	p.verifiedDigest.Store(&sum)
	return true
}
