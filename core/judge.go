package core

import "time"

// Judge rules on a response before it is relayed. Implementations are safe for concurrent use.
type Judge interface {
	// ExcerptSpec returns the parts of a response that the judge needs, or nil if the judge currently rules on no
	// responses. The caller must not change them.
	ExcerptSpec() *ExcerptSpec
	// Rule returns the ruling on a response. It does not use its arguments after it has returned. If the error is not
	// nil, the ruling is not used.
	Rule(r *JudgeRequest, e *Excerpt) (Ruling, error)
}

// Ruling is the result of a judge.
type Ruling struct {
	Kind    RulingKind
	BanTime time.Duration // duration of the ban, above 0; only with RulingBanned
}

// RulingKind is the effect of a ruling. Package sdk/abi defines the numbers.
type RulingKind uint8

// The kinds of rulings.
const (
	RulingFine        RulingKind = iota // nothing changes: the policy decides as without a judge
	RulingRetry                         // retry, as after a status in retry_status_codes
	RulingOtherProxy                    // retry without a backoff, through another proxy
	RulingBanned                        // like RulingOtherProxy; in addition, the proxy is banned for the target's host
	RulingTargetFault                   // the response is final, and the target is charged

	numRulings
)

// Valid reports whether k is one of the kinds.
func (k RulingKind) Valid() bool { return k < numRulings }

// String returns the name used in the API.
func (k RulingKind) String() string {
	return [numRulings]string{"fine", "retry", "other_proxy", "banned", "target_fault"}[k]
}

// The limits of the data that a judge gets.
const (
	MaxExcerptBody   = 8 << 10 // bytes of a body's beginning
	MaxExcerptFields = 64      // header fields of one response
	MaxExcerptValue  = 1 << 10 // bytes of a field's value; a longer value is cut off
)

// ExcerptSpec lists the parts of a response that a judge needs.
type ExcerptSpec struct {
	Body     int      // bytes of the body's beginning, 0 to MaxExcerptBody
	Fields   []string // names of header fields, in lower case
	Statuses []Range  // the judge rules only on responses with these statuses; empty for all
}

// Range is a range of statuses from First to Last, both included.
type Range struct{ First, Last int }

// IncludesStatus reports whether the judge rules on responses with the status.
func (s *ExcerptSpec) IncludesStatus(status int) bool {
	for _, r := range s.Statuses {
		if r.First <= status && status <= r.Last {
			return true
		}
	}
	return len(s.Statuses) == 0
}

// Excerpt is the part of a response that a judge gets in addition to a JudgeRequest. The byte slices are
// views of a buffer.
type Excerpt struct {
	Fields  []ExcerptField // the fields that the judge asks for, in the order of the response
	Body    []byte         // the part of the body's beginning that has arrived; gzip is decoded
	Length  int64          // announced length of the body; -1 if it is unknown
	Encoded bool           // Body has a content coding other than gzip, and is not decoded
	Whole   bool           // Body is the whole body
}

// ExcerptField is one header field.
type ExcerptField struct {
	Name  string // in lower case, as in ExcerptSpec.Fields
	Value []byte // at most MaxExcerptValue bytes
}

// JudgeRequest describes a response to a judge. It has the memory layout of the first part of abi.JudgeRequest. The
// second part of abi.JudgeRequest has the addresses of an excerpt. Times are in seconds.
type JudgeRequest struct {
	Now          float64 // seconds since the Unix epoch
	Attempt      float64 // 0 for the first attempt
	AttemptsLeft float64 // maximum number of attempts that may follow; 0 if the request may not be repeated
	Status       float64
	Latency      float64 // time until the response's head
	HostHash     float64 // as RankRequest.HostHash
	IDHash       float64 // Candidate.IDHash of the proxy
	Length       float64 // as Excerpt.Length
	Encoded      float64 // 1 or 0, as Excerpt.Encoded
	Whole        float64 // 1 or 0, as Excerpt.Whole
}
