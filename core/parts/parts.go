// Package parts has the types of shared limits. A shared limit holds for all nodes of a cluster together. Each node has
// a part of the limit, up to which it may use the limit. Package cluster divides the limits into parts.
package parts

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
	// SetPart sets the gateway's part of the limit, and returns the new part. If the gateway uses more than the
	// argument part at this moment, the new part is as large as this use. The argument total is the last known use of
	// all nodes, and base is the value of Use.Used at that time.
	SetPart(part, total, base int64) int64
	// Release gives up the gateway's part of the limit. The gateway may then use the first part of the limit (First).
	// Of a Daily limit, it may use the amount in the argument part. total and base are as in SetPart.
	Release(part, total, base int64)
}

// Share determines how much a gateway may use of a limit without having a part of it.
type Share struct {
	Nodes    int64 // live nodes, as far as is known
	Fraction int64 // the gateway uses 1/Fraction of an equal share
	Alone    bool  // no part grows, because the store cannot be reached
}

// Divisor returns the divisor for First.
func (s Share) Divisor() int64 { return s.Nodes * s.Fraction }

// Use is the state of a shared limit in one gateway.
type Use struct {
	Kind  Kind
	Whole bool  // InFlight only: a use beyond the part is refused, so the first part is a whole equal share
	Limit int64 // 0 if the gateway does not have the limit any more
	Used  int64 // today, or in flight now; 0 for a Rate
	Part  int64 // what the gateway may use
	Total int64 // of a Daily limit: the last known use of all nodes on this day; 0 if it is not known
	Base  int64 // of a Daily limit: Used when Total was true
	Count int64 // changes with each use; for a Daily limit, it is Used
	Empty bool  // for a Rate: no attempt is admitted now
	Day   int64 // for a Daily limit: the day of Used, in days since the Unix epoch
}

// Short reports whether the gateway has used its part of a Daily limit and may get a larger part. It may get one if its
// part is smaller than the limit, and if all nodes together, as far as it knows, have not used up the limit.
func (u *Use) Short() bool {
	return u.Kind == Daily && u.Used >= u.Part && u.Part < u.Limit && u.Total+max(u.Used-u.Base, 0) < u.Limit
}

// First returns the part of a limit that a gateway may use before it gets another part: limit/divisor, at least 1.
func First(limit, divisor int64) int64 { return max(limit/max(divisor, 1), 1) }

// Part is a gateway's part of one limit. The zero value is the first part (First).
type Part struct {
	held        bool // made by Held or Released: its size is the field part
	released    bool // the node does not hold it any more
	part, total int64
	day         int64 // of a Daily limit
	base        int64 // what the gateway had used when total was true or, without a part, when the first part began
}

// Held returns a part of the given size. total and base are as in Limit.SetPart.
func Held(part, total, day, base int64) Part {
	return Part{held: true, part: part, total: total, day: day, base: base}
}

// Released returns what is left of a part that the gateway has given up. The parameters are those of Held.
func Released(part, total, day, base int64) Part {
	p := Held(part, total, day, base)
	p.released = true
	return p
}

// Begun returns the first part of a gateway that has already used an amount on the given day.
func Begun(day, used int64) Part { return Part{day: day, base: used} }

// Most returns how much the gateway may use of a limit that is not Daily.
func (p *Part) Most(limit, divisor int64) int64 {
	if p.held {
		return min(p.part, limit)
	}
	return First(limit, divisor)
}

// MostToday returns how much the gateway may use of a Daily limit on the given day.
func (p *Part) MostToday(limit, divisor, day int64) int64 {
	switch {
	case p.day != day:
		return First(limit, divisor)
	case p.held:
		return min(p.part, limit)
	case p.base >= limit:
		return limit
	}
	return p.base + First(limit-p.base, divisor)
}

// MostAlone returns how much of a Daily limit the gateway may use on the given day while no node can reach the store.
// This is the gateway's part or, if that is more, the amount base, which it had used before, plus an equal share of
// what was left then.
func (p *Part) MostAlone(limit int64, s Share, day int64) int64 {
	most := p.MostToday(limit, s.Divisor(), day)
	if p.IsOf(day) {
		return max(most, p.base+max(limit-p.total, 0)/max(s.Nodes, 1))
	}
	return max(most, p.MostToday(limit, s.Nodes, day))
}

// Total returns the last known use of all nodes on the given day, and the use of this gateway at that time.
func (p *Part) Total(day int64) (all, here int64) {
	if !p.IsOf(day) {
		return 0, 0
	}
	return p.total, p.base
}

// Spent reports whether all nodes together have used up a Daily limit. used is the use of this gateway.
func (p *Part) Spent(limit, day, used int64) bool {
	return used >= limit || p.held && p.day == day && p.total+max(used-p.base, 0) >= limit
}

// IsOf reports whether this part of a Daily limit was made by Held or Released for the given day.
func (p *Part) IsOf(day int64) bool { return p.held && p.day == day }

// IsBegun reports whether this part of a Daily limit was made for the given day, by Held, Released or Begun.
func (p *Part) IsBegun(day int64) bool { return p.day == day }

// IsHeld reports whether the node holds the part. A part of a Daily limit is valid for one day.
func (p *Part) IsHeld(daily bool, day int64) bool {
	return p.held && !p.released && (!daily || p.day == day)
}
