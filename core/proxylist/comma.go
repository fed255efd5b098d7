package proxylist

import (
	"cmp"
	"regexp"
	"strings"
)

// cutColumns removes the columns that describe the proxy from a row whose first column is host:port:user:pass. It also
// returns the scheme in these columns, or the given scheme if they contain none. Other lines stay unchanged.
func cutColumns(line, scheme string) (address, addressScheme string, cut bool) {
	address, columns := columnsAfterPassword(line)
	if descriptionOf(columns) < possibleDescription {
		return line, scheme, false
	}
	return address, cmp.Or(schemeInColumns(columns), scheme), true
}

// columnsAfterPassword splits a row whose first column is host:port:user:pass into this column and the others. For any
// other line it returns "".
func columnsAfterPassword(line string) (address, columns string) {
	f := strings.SplitN(line, ":", 4)
	if len(f) < 4 || !isPort(f[1]) || strings.ContainsAny(f[0]+f[2], " \t/@,") {
		return "", ""
	}
	end := passwordLength(f[3])
	if end == 0 || end == len(f[3]) || strings.ContainsAny(f[3][:end], " \t") {
		return "", ""
	}
	return line[:len(line)-len(f[3])+end], f[3][end+1:]
}

// schemeInColumns returns the scheme of the first column that is a protocol; "" if there is none.
func schemeInColumns(columns string) string {
	for column := range strings.SplitSeq(columns, ",") {
		if schemes := parseProtocols(column); len(schemes) > 0 {
			return schemes[0]
		}
	}
	return ""
}

// hasCommaInPassword reports whether line is host:port:user:pass, and all commas belong to the password.
func hasCommaInPassword(line string) bool {
	f := strings.Split(line, ":")
	return len(f) == 4 && isPort(f[1]) && !strings.ContainsAny(f[0]+f[2], ", \t") &&
		!strings.ContainsAny(f[3], " \t@") && passwordLength(f[3]) == len(f[3])
}

var (
	// vendorOption matches the beginning of an option that a vendor reads in the password, such as _session-ab12.
	vendorOption = regexp.MustCompile(`[_-][a-z]+-[0-9A-Za-z]`)
	// codeOption matches such an option at the end of a text. Its value is a code of two letters: _country-us.
	codeOption = regexp.MustCompile(`[_-][A-Za-z]+-[A-Za-z]{2}$`)
	// countryCode matches two letters before another value or option, or at the end of a text.
	countryCode = regexp.MustCompile(`^[A-Za-z]{2}(?:[,_-]|$)`)
)

// maxOption is the maximum length of an option that passwordLength recognizes before a comma.
const maxOption = 40

// passwordLength returns the length of the password at the beginning of a text. The password ends at the first comma
// that does not belong to the password. A comma belongs to the password if it separates two codes of an option
// (_country-us,de), or if another option follows (_city-rome,oslo_session-ab12).
func passwordLength(text string) int {
	word := text
	if i := strings.IndexAny(text, " \t"); i >= 0 {
		word = text[:i]
	}
	lastOption := -1
	if all := vendorOption.FindAllStringIndex(word, -1); all != nil {
		lastOption = all[len(all)-1][0]
	}
	codesEnd := -1 // end of the codes of an option
	for i := range len(text) {
		if text[i] != ',' {
			continue
		}
		isAfterCode := i == codesEnd || codeOption.MatchString(text[max(0, i-maxOption):i])
		switch {
		case isAfterCode && countryCode.MatchString(text[i+1:min(len(text), i+4)]):
			codesEnd = i + 3
		case i > lastOption:
			return i
		}
	}
	return len(text)
}
