package strict

import (
	"strings"
	"unicode/utf8"
)

// Closest returns the element of list that is most similar to word. This is the element with the smallest edit
// distance; case is ignored. If every element differs in more than a third of its characters and in more than one
// character, the result is the only element that contains word without its last character, if it begins so ("prox" and
// "proxy" for "proxies"), or the element with which word begins ("warning" for "warn"). Otherwise it is "".
func Closest(word string, list []string) string {
	best, least := "", 0
	for _, candidate := range list {
		d := editDistance(strings.ToLower(word), strings.ToLower(candidate))
		if d <= max(1, utf8.RuneCountInString(candidate)/3) && (best == "" || d < least) {
			best, least = candidate, d
		}
	}
	if best == "" {
		best = sameBeginning(strings.ToLower(word), list)
	}
	return best
}

// leastStem is the minimum number of bytes that two words have in common if one of them is taken for the other.
const leastStem = 3

func sameBeginning(word string, list []string) (only string) {
	if len(word) <= leastStem || len(word) > maxWord {
		return ""
	}
	stem, contain, begin := word[:len(word)-1], 0, ""
	for _, candidate := range list {
		lower := strings.ToLower(candidate)
		if strings.Contains(lower, stem) {
			contain++
		}
		if strings.HasPrefix(lower, stem) {
			begin = candidate
		}
		if len(lower) > leastStem && strings.HasPrefix(word, lower) {
			only = candidate
		}
	}
	if contain == 1 && begin != "" {
		return begin
	}
	return only
}

// DidYouMean returns "; did you mean X?" if list has an element X that is similar to word, and otherwise "".
func DidYouMean(word string, list []string) string {
	if closest := Closest(word, list); closest != "" {
		return "; did you mean " + closest + "?"
	}
	return ""
}

// maxWord is the maximum number of bytes of a word that editDistance compares. The distance of a longer word is
// maxWord.
const maxWord = 64

// editDistance returns the smallest number of changes that turn one word into the other. A change inserts, deletes or
// replaces a character, or swaps two adjacent ones. (This is the optimal string alignment distance; Damerau, A
// technique for computer detection and correction of spelling errors, 1964.)
func editDistance(a, b string) int {
	if len(a) > maxWord || len(b) > maxWord {
		return maxWord
	}
	from, to := []rune(a), []rune(b)
	before, last := make([]int, len(to)+1), make([]int, len(to)+1)
	for j := range last {
		last[j] = j
	}
	for i := range from {
		row := make([]int, len(to)+1)
		row[0] = i + 1
		for j := range to {
			replaced := last[j]
			if from[i] != to[j] {
				replaced++
			}
			row[j+1] = min(replaced, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && from[i] == to[j-1] && from[i-1] == to[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(to)]
}
