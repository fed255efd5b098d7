// Package share has the types of shared limits. A shared limit holds for all nodes of a cluster together. Each node has
// a share of the limit: the amount up to which the node may use it. Package cluster divides the limits into shares.
package share

// Kind is the kind of a shared limit.
type Kind uint8

// The kinds of shared limits.
const (
	InFlight Kind = iota // attempts or requests at the same time
	Rate                 // attempts a second, in units of 1/RateUnit
	Daily                // an amount for a day
)

// RateUnit is one attempt a second in the numbers of a Rate.
const RateUnit = 1e9

// Limit is a shared limit in one gateway. It is safe for concurrent use.
type Limit interface {
	// Key identifies the limit on all nodes. It does not include the day of a Daily limit.
	Key() string
	Use() Use
	// SetShare sets the gateway's share of the limit to the given size, and returns the new share. If the gateway uses
	// more than this size at the moment, the new share is as large as its use. The last known use of all nodes is
	// total, and usedAtTotal is the value that Use.Used had when total was determined.
	SetShare(size, total, usedAtTotal int64) int64
	// ReleaseShare gives up the gateway's share of the limit. The gateway may then use the initial share (Initial) or,
	// if the limit is Daily, the given size. total and usedAtTotal are as in SetShare.
	ReleaseShare(size, total, usedAtTotal int64)
}

// InitialShares determines how much of a limit a gateway may use while it has no share of the limit: 1/Fraction of an
// equal share.
type InitialShares struct {
	Nodes    int64 // live nodes, as far as is known
	Fraction int64 // see InitialShares
	Alone    bool  // no share grows, because the store cannot be reached
}

// Divisor returns the divisor for Initial.
func (i InitialShares) Divisor() int64 { return i.Nodes * i.Fraction }

// Use is the state of a shared limit in one gateway.
type Use struct {
	Kind Kind
	// InitialIsEqualShare is set for a limit of the kind InFlight that refuses every use beyond the share. Its initial
	// share is a whole equal share, without regard to InitialShares.Fraction.
	InitialIsEqualShare bool
	Limit               int64 // 0 if the gateway does not have the limit any more
	Used                int64 // amount used today, or number in flight now; 0 for a Rate
	Share               int64 // the amount that the gateway may use
	Total               int64 // of a Daily limit: the last known use of all nodes on this day; 0 if it is not known
	UsedAtTotal         int64 // of a Daily limit: Used at the time of Total
	Count               int64 // changes with each use; for a Daily limit, it is Used
	HasNoToken          bool  // for a Rate: no attempt is admitted now
	Day                 int64 // for a Daily limit: the day of Used, in days since the Unix epoch
}

// NeedsMore reports whether the gateway has used its share of a Daily limit and may get a larger share. It may get one
// if its share is smaller than the limit, and if all nodes together, as far as it knows, have not used up the limit.
func (u *Use) NeedsMore() bool {
	return u.Kind == Daily && u.Used >= u.Share && u.Share < u.Limit && u.Total+max(u.Used-u.UsedAtTotal, 0) < u.Limit
}

// Initial returns the share of a limit that a gateway may use before it gets another share: limit/divisor, at least 1.
func Initial(limit, divisor int64) int64 { return max(limit/max(divisor, 1), 1) }

// Share is a gateway's share of one limit. The zero value is the initial share (Initial).
type Share struct {
	hasSize     bool // made by NewShare or NewReleased: its size is the field size
	isReleased  bool // the gateway does not hold the share any more
	size, total int64
	day         int64 // of a Daily limit
	usedAtTotal int64 // used at the time of total or, without a share, when the initial share began
}

// NewShare returns a share of the given size. total and usedAtTotal are as in Limit.SetShare.
func NewShare(size, total, day, usedAtTotal int64) Share {
	return Share{hasSize: true, size: size, total: total, day: day, usedAtTotal: usedAtTotal}
}

// NewReleased returns the share of a gateway that has given up its share: size is the amount that it may still use. The
// parameters are those of NewShare.
func NewReleased(size, total, day, usedAtTotal int64) Share {
	p := NewShare(size, total, day, usedAtTotal)
	p.isReleased = true
	return p
}

// NewInitial returns the initial share of a gateway that has already used an amount on the given day.
func NewInitial(day, used int64) Share { return Share{day: day, usedAtTotal: used} }

// Allowance returns how much the gateway may use of a limit that is not Daily.
func (s *Share) Allowance(limit, divisor int64) int64 {
	if s.hasSize {
		return min(s.size, limit)
	}
	return Initial(limit, divisor)
}

// AllowanceToday returns how much the gateway may use of a Daily limit on the given day.
func (s *Share) AllowanceToday(limit, divisor, day int64) int64 {
	switch {
	case s.day != day:
		return Initial(limit, divisor)
	case s.hasSize:
		return min(s.size, limit)
	case s.usedAtTotal >= limit:
		return limit
	}
	return s.usedAtTotal + Initial(limit-s.usedAtTotal, divisor)
}

// AllowanceAlone returns how much of a Daily limit the gateway may use on the given day while no node can reach the
// store. This is the larger one of two amounts. The first is the gateway's share. The second is what the gateway had
// used at the time of the last known total, plus an equal share of what was left then.
func (s *Share) AllowanceAlone(limit int64, initial InitialShares, day int64) int64 {
	allowance := s.AllowanceToday(limit, initial.Divisor(), day)
	if s.HasSizeFor(day) {
		return max(allowance, s.usedAtTotal+max(limit-s.total, 0)/max(initial.Nodes, 1))
	}
	return max(allowance, s.AllowanceToday(limit, initial.Nodes, day))
}

// Total returns the last known use of all nodes on the given day, and the use of this gateway at that time.
func (s *Share) Total(day int64) (all, here int64) {
	if !s.HasSizeFor(day) {
		return 0, 0
	}
	return s.total, s.usedAtTotal
}

// IsSpent reports whether all nodes together have used up a Daily limit. used is the use of this gateway.
func (s *Share) IsSpent(limit, day, used int64) bool {
	return used >= limit || s.hasSize && s.day == day && s.total+max(used-s.usedAtTotal, 0) >= limit
}

// HasSizeFor reports whether this share of a Daily limit was made by NewShare or NewReleased for the given day.
func (s *Share) HasSizeFor(day int64) bool { return s.hasSize && s.day == day }

// IsFor reports whether this share of a Daily limit was made for the given day, by NewShare, NewReleased or NewInitial.
func (s *Share) IsFor(day int64) bool { return s.day == day }

// IsHeld reports whether the node holds the share. A share of a Daily limit is valid for one day.
func (s *Share) IsHeld(daily bool, day int64) bool {
	return s.hasSize && !s.isReleased && (!daily || s.day == day)
}
