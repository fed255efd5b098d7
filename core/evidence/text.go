package evidence

import (
	"fmt"
	"strings"
)

// Text describes the evidence in one sentence, for the log. The sentence says how many attempts failed at which targets
// with which causes, in comparison with the other proxies. It names at most three targets. The function causeWord
// returns the word for a cause.
func (w *Report) Text(causeWord func(cause uint8) string) string {
	if w.Failures == 0 {
		return ""
	}
	var parts []string
	if w.OutageFailures > 0 {
		parts = append(parts, fmt.Sprintf("%d failures since the pool's last success at any target", w.OutageFailures))
	}
	for i := range w.Targets {
		t := &w.Targets[i]
		if i == 3 {
			parts = append(parts, fmt.Sprintf("and failures at %d more targets", len(w.Targets)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%d of %d attempts failed at %s%s, where the other proxies failed %d of %d",
			t.Failures, t.Attempts, t.Name, causeList(t.Causes, causeWord), t.OtherFailures, t.OtherAttempts))
	}
	if w.OwnFailures > 0 {
		parts = append(parts, fmt.Sprintf("%d failures that no target causes%s", w.OwnFailures,
			causeList(w.OwnCauses, causeWord)))
	}
	return strings.Join(parts, "; ")
}

func causeList(causes []CauseCount, causeWord func(uint8) string) string {
	if len(causes) == 0 {
		return ""
	}
	words := make([]string, len(causes))
	for i, c := range causes {
		words[i] = fmt.Sprintf("%s %d", causeWord(c.Cause), c.Count)
		if c.Count == maxCauseCount {
			words[i] += " or more"
		}
	}
	return " (" + strings.Join(words, ", ") + ")"
}
