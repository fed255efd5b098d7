package evidence

import (
	"fmt"
	"strings"
)

// Text is the explanation for a person and the log: how many attempts failed in
// which way at which target, beside what the rest of the pool had there. word names
// a cause. At most three targets are named.
func (w *Why) Text(word func(cause uint8) string) string {
	if w.Failures == 0 {
		return ""
	}
	var parts []string
	if w.Outage > 0 {
		parts = append(parts, fmt.Sprintf("%d failures since the pool was last served by any target", w.Outage))
	}
	for i := range w.Targets {
		t := &w.Targets[i]
		if i == 3 {
			parts = append(parts, fmt.Sprintf("and failures at %d more targets", len(w.Targets)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%d of %d attempts failed at %s%s, where the rest of the pool failed %d of %d",
			t.Failures, t.Attempts, t.Name, named(t.Causes, word), t.RestFailures, t.RestAttempts))
	}
	if w.Own > 0 {
		parts = append(parts, fmt.Sprintf("%d failures of a kind that no target causes%s", w.Own, named(w.OwnCause, word)))
	}
	return strings.Join(parts, "; ")
}

func named(causes []CauseCount, word func(uint8) string) string {
	if len(causes) == 0 {
		return ""
	}
	words := make([]string, len(causes))
	for i, c := range causes {
		words[i] = fmt.Sprintf("%s %d", word(c.Cause), c.Count)
	}
	return " (" + strings.Join(words, ", ") + ")"
}
