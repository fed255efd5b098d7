package retry

// Phase is how far an attempt had come when it failed.
type Phase uint8

// The phases of an attempt, in order.
const (
	Dial      Phase = iota + 1 // opening a socket to the proxy
	Handshake                  // TLS to the proxy, SOCKS or CONNECT to the target, TLS to the target
	Write                      // sending the request
	Head                       // waiting for the answer's head
	Read                       // the answer's body
)

// Fault is why an attempt brought no answer. It carries no credentials.
type Fault struct {
	Phase    Phase
	Reason   string // RFC 9209 error token (section 2.3)
	Timeout  bool   // a deadline passed
	Unsent   bool   // nothing of the request can have reached an origin
	Stale    bool   // a kept connection ended before any byte of the answer
	Leftover bool   // Stale, and what came first on the kept connection was no answer: bytes left over from before
	Sending  bool   // the request's body was not sent whole by then
	Client   bool   // the request's body broke off: its sender has left, or breaks the rules
	Target   bool   // the target's own doing: its certificate does not verify, or it was asked directly
	Ours     bool   // this machine had no descriptor, port or memory left to try with
	Status   int    // of a CONNECT that the proxy refused; else 0
	Err      error
}

func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }
