package core

import "fmt"

// Priority determines which of several requests leaves a queue first. A larger value is a lower
// priority.
type Priority uint8

// The priorities. AnyPriority is the zero value. A request without a priority is treated as PriorityNormal. A
// limit of AnyPriority permits every priority.
const (
	AnyPriority Priority = iota
	PriorityHigh
	PriorityNormal
	PriorityLow
)

// PriorityCount is the number of priorities without AnyPriority.
const PriorityCount = int(PriorityLow)

var priorityNames = [...]string{PriorityHigh: "high", PriorityNormal: "normal", PriorityLow: "low"}

// Priorities returns all priorities, the highest first.
func Priorities() [PriorityCount]Priority {
	return [...]Priority{PriorityHigh, PriorityNormal, PriorityLow}
}

func (p Priority) String() string { return priorityNames[p] }

// ParsePriority returns the priority with the given name: high, normal or low. The error lists these names.
func ParsePriority(name string) (Priority, error) {
	for _, p := range Priorities() {
		if name == priorityNames[p] {
			return p, nil
		}
	}
	return AnyPriority, fmt.Errorf("%.40q is not a priority; it must be high, normal or low", name)
}

// AtMost returns the lower one of the two priorities p and limit. If p is AnyPriority, it counts as PriorityNormal.
func (p Priority) AtMost(limit Priority) Priority {
	if p == AnyPriority {
		p = PriorityNormal
	}
	return max(p, limit)
}
