package minutes

import (
	"net/http"

	"github.com/whirlpool-proxy/whirlpool/core"
)

// Key is the result of an attempt: its cause, and the status of the response.
type Key uint32

// maxStatus is the largest status of a Key.
const maxStatus = 999

// KeyOf returns the key of an attempt. A status outside of 100 to 999 counts as 0 (no status).
func KeyOf(c core.Cause, status int) Key {
	if status < 100 || status > maxStatus {
		status = 0
	}
	return Key(c)<<10 | Key(status)
}

// Cause returns the cause of the attempts.
func (k Key) Cause() core.Cause { return core.Cause(k >> 10) }

// IsRefusal reports whether the status is one by which targets refuse clients: 403 or 429.
func (k Key) IsRefusal() bool {
	return k.Status() == http.StatusForbidden || k.Status() == http.StatusTooManyRequests
}

// Status returns the status of the response; 0 if there was none.
func (k Key) Status() int { return int(k & 0x3ff) }

// Count is the number of attempts with a key.
type Count struct {
	Key Key
	N   uint64
}
