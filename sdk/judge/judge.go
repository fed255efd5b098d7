// Package judge makes a plugin a judge. Import it only in a judge: the import makes the module export the functions
// "judge" and "judge_wants".
package judge

import (
	"strconv"
	"strings"

	"github.com/whirlpool-proxy/whirlpool/sdk/abi"
)

// Judge rules on the responses of targets before they are relayed. If a call fails, the response counts as Fine.
type Judge interface {
	// Judge returns the ruling on a response. The host owns the memory of the response: copy the parts that you
	// keep.
	Judge(r *Response) Ruling
}

// Wanter is an optional interface of a Judge. A judge that does not implement it rules on all
// responses, and gets no header fields and no body.
type Wanter interface {
	// Wants returns the parts of a response that the judge gets. It is called
	// once, after Configure.
	Wants() Wants
}

// Wants selects the parts of a response that the judge gets.
type Wants struct {
	Body     int      // bytes of the body's beginning, at most 8192
	Fields   []string // names of header fields, at most 32
	Statuses []Range  // the judge rules only on responses with these statuses, at most 32 ranges; empty for all
}

// Range is a range of statuses from First to Last, both included.
type Range struct{ First, Last int }

// Response is a response of a target.
type Response struct {
	Now           float64 // s since the Unix epoch
	Attempt       float64 // 0 for a request's first attempt
	AttemptsLeft  float64 // retries that may follow this attempt; 0 if the request may not be repeated
	Status        float64
	Latency       float64 // s, until the response's head
	HostHash      float64 // hash of the target's host; see package hash
	IDHash        float64 // hash of the proxy's id
	ContentLength float64 // announced length of the body; -1 if it is unknown
	Encoded       bool    // Body has a content coding other than gzip, and is not decoded
	Whole         bool    // Body is the whole body
	Fields        []Field // the fields that Wants names, in the order of the response
	Body          []byte  // the body's beginning
}

// Field is a header field.
type Field struct {
	Name  string // in lower case
	Value []byte
}

// Field returns the value of the first field with the given name. The name must be in lower case. It returns nil if
// there is no such field.
func (r *Response) Field(name string) []byte {
	for i := range r.Fields {
		if r.Fields[i].Name == name {
			return r.Fields[i].Value
		}
	}
	return nil
}

// Has reports whether the beginning of the body contains a text, ignoring the case of the letters A to Z. The parameter
// lower is the text in lower case. Has allocates nothing.
func (r *Response) Has(lower string) bool {
	for i := 0; i+len(lower) <= len(r.Body); i++ {
		n := 0
		for n < len(lower) && toLower(r.Body[i+n]) == lower[n] {
			n++
		}
		if n == len(lower) {
			return true
		}
	}
	return false
}

func toLower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c |= 0x20
	}
	return c
}

// Kind is the effect of a ruling.
type Kind float64

// The kinds of rulings.
const (
	Fine        Kind = abi.RulingFine        // the policy decides as without a judge
	Retry       Kind = abi.RulingRetry       // a retry, as after a status in retry_status_codes
	OtherProxy  Kind = abi.RulingOtherProxy  // an immediate retry through another proxy
	Banned      Kind = abi.RulingBanned      // like OtherProxy, and the proxy is banned for the target's host
	TargetFault Kind = abi.RulingTargetFault // the response is final, and the target is charged
)

// Ruling is a judge's ruling on a response. The zero value is Fine.
type Ruling struct {
	Kind Kind
	Rest float64 // duration of the rest, s, 1 to 86400; 0 stands for 600; only with Banned
}

var plugin Judge

// Register sets the module's judge. Call it from an init function: the host does not run main.
func Register(j Judge) { plugin = j }

// text returns w in the form in which the host expects it from the export "judge_wants".
func (w Wants) text() string {
	var b strings.Builder
	if w.Body > 0 {
		b.WriteString("body " + strconv.Itoa(w.Body) + "\n")
	}
	for _, name := range w.Fields {
		b.WriteString("field " + name + "\n")
	}
	for _, r := range w.Statuses {
		b.WriteString("status " + strconv.Itoa(r.First) + "-" + strconv.Itoa(r.Last) + "\n")
	}
	return b.String()
}

// wanted returns the result of the export "judge_wants": the text of the judge's Wants, and a zero byte at its end.
//
//lint:ignore U1000 the export reads it
func wanted() []byte {
	var w Wants
	if p, ok := plugin.(Wanter); ok {
		w = p.Wants()
	}
	return append([]byte(w.text()), 0)
}
