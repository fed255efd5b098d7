package strict

import (
	"strings"
	"unicode/utf8"
)

// Closest returns the element of list with the smallest edit distance from word, without regard to case. The distance
// may be at most a third of the element's characters, or 1. If no element is that close, Closest returns the result of
// closestByStem.
func Closest(word string, list []string) string {
	closest, distance := "", 0
	for _, candidate := range list {
		d := editDistance(strings.ToLower(word), strings.ToLower(candidate))
		if d <= max(1, utf8.RuneCountInString(candidate)/3) && (closest == "" || d < distance) {
			closest, distance = candidate, d
		}
	}
	if closest == "" {
		closest = closestByStem(strings.ToLower(word), list)
	}
	return closest
}

// minStem is the minimum number of bytes of the common beginning of two words in closestByStem.
const minStem = 3

// closestByStem searches for the stem of a word, which is the word without its last character. If only one element
// contains the stem, and this element begins with it, the result is this element ("proxies" for "prox" or "proxy").
// Otherwise the result is the last element that is the beginning of the word ("warn" for "warning"); "" for none. The
// word is in lower case.
func closestByStem(word string, list []string) (prefixOfWord string) {
	if len(word) <= minStem || len(word) > maxWord {
		return ""
	}
	stem, containCount, beginsWithStem := word[:len(word)-1], 0, ""
	for _, candidate := range list {
		lower := strings.ToLower(candidate)
		if strings.Contains(lower, stem) {
			containCount++
		}
		if strings.HasPrefix(lower, stem) {
			beginsWithStem = candidate
		}
		if len(lower) > minStem && strings.HasPrefix(word, lower) {
			prefixOfWord = candidate
		}
	}
	if containCount == 1 && beginsWithStem != "" {
		return beginsWithStem
	}
	return prefixOfWord
}

// DidYouMean returns "; did you mean X?" if list has an element X that is similar to word, and otherwise "".
func DidYouMean(word string, list []string) string {
	if closest := Closest(word, list); closest != "" {
		return "; did you mean " + closest + "?"
	}
	return ""
}

// maxWord is the maximum number of bytes of a word that editDistance compares. If a word is longer, editDistance
// returns maxWord.
const maxWord = 64

// editDistance returns the smallest number of changes that turn one word into the other. A change inserts, deletes or
// replaces a character, or swaps two adjacent characters. (This is the optimal string alignment distance; Damerau, A
// technique for computer detection and correction of spelling errors, 1964.)
func editDistance(a, b string) int {
	if len(a) > maxWord || len(b) > maxWord {
		return maxWord
	}
	from, to := []rune(a), []rune(b)
	secondLastRow, lastRow := make([]int, len(to)+1), make([]int, len(to)+1)
	for j := range lastRow {
		lastRow[j] = j
	}
	for i := range from {
		row := make([]int, len(to)+1)
		row[0] = i + 1
		for j := range to {
			replaced := lastRow[j]
			if from[i] != to[j] {
				replaced++
			}
			row[j+1] = min(replaced, lastRow[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && from[i] == to[j-1] && from[i-1] == to[j] {
				row[j+1] = min(row[j+1], secondLastRow[j-1]+1)
			}
		}
		secondLastRow, lastRow = lastRow, row
	}
	return lastRow[len(to)]
}
