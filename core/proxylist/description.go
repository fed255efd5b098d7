package proxylist

import (
	"regexp"
	"strings"
)

// countryWords has the words of the names of countries (ISO 3166-1, and names in common use).
var countryWords = wordSet(`
	Afghanistan Albania Algeria American Samoa Andorra Angola Anguilla Antarctica Antigua and Barbuda Argentina
	Armenia Aruba Australia Austria Azerbaijan Bahamas Bahrain Bangladesh Barbados Belarus Belgium Belize Benin
	Bermuda Bhutan Bolivia Bosnia Herzegovina Botswana Brazil British Virgin Islands Brunei Darussalam Bulgaria
	Burkina Faso Burundi Cabo Verde Cambodia Cameroon Canada Cayman Central African Republic Chad Chile China
	Colombia Comoros Congo Cook Costa Rica Croatia Cuba Curacao Curaçao Cyprus Czech Czechia Denmark Djibouti
	Dominica Dominican Ecuador Egypt El Salvador Equatorial Guinea Eritrea Estonia Eswatini Ethiopia Falkland
	Faroe Fiji Finland France French Guiana Polynesia Gabon Gambia Georgia Germany Ghana Gibraltar Greece
	Greenland Grenada Guadeloupe Guam Guatemala Guernsey Bissau Guyana Haiti Honduras Hong Kong Hungary Iceland
	India Indonesia Iran Iraq Ireland Isle of Man Israel Italy Ivory Coast Jamaica Japan Jersey Jordan Kazakhstan
	Kenya Kiribati Korea Kosovo Kuwait Kyrgyzstan Laos Latvia Lebanon Lesotho Liberia Libya Liechtenstein
	Lithuania Luxembourg Macao Macau Macedonia Madagascar Malawi Malaysia Maldives Mali Malta Marshall Martinique
	Mauritania Mauritius Mayotte Mexico Micronesia Moldova Monaco Mongolia Montenegro Montserrat Morocco
	Mozambique Myanmar Namibia Nauru Nepal Netherlands New Caledonia Zealand Nicaragua Niger Nigeria Niue Norfolk
	North Northern Mariana Norway Oman Pakistan Palau Palestine Panama Papua Paraguay Peru Philippines Pitcairn
	Poland Portugal Puerto Rico Qatar Reunion Réunion Romania Russia Russian Federation Rwanda Saint Kitts Nevis
	Lucia Martin Pierre Miquelon Vincent the Grenadines San Marino Sao Tome Principe Saudi Arabia Senegal Serbia
	Seychelles Sierra Leone Singapore Sint Maarten Slovakia Slovenia Solomon Somalia South Africa Sudan Spain Sri
	Lanka Suriname Svalbard Sweden Switzerland Syria Syrian Arab Taiwan Tajikistan Tanzania Thailand Timor Leste
	Togo Tokelau Tonga Trinidad Tobago Tunisia Turkey Turkiye Türkiye Turkmenistan Turks Caicos Tuvalu Uganda
	Ukraine United Emirates Kingdom States America Uruguay Uzbekistan Vanuatu Vatican Venezuela Viet Nam Vietnam
	Wallis Futuna Côte d'Ivoire Western Sahara Yemen Zambia Zimbabwe Province Democratic People's Plurinational
	State`)

// kindWords has words that describe a proxy in lists: its kind, anonymity and state.
var kindWords = wordSet(`elite anonymous anonym transparent high low medium noa anm hia highly anonymity distorting
	proxy proxies residential datacenter dc mobile isp static rotating sticky shared dedicated private public premium
	free ipv4 ipv6 v4 v6 yes no true false on off ok good bad fast slow alive dead working works checked verified active
	inactive online offline passed google ssl supported unknown none null nil undefined http https socks socks4 socks4a
	socks5 socks5h connect all any`)

// figurePattern matches signs, codes and figures that describe a proxy: +, US, US-H-S!, 120ms, 0.5s, 99%, a date, a
// time.
var figurePattern = regexp.MustCompile(`^(?:[-+!*=<>~:&•–—✓✔✗→]+|[A-Z]{2}|` +
	`[A-Z]{2}-[NAH](?:-S!?)?[+!-]*|` +
	`\d+(?:\.\d+)?(?:%|ms|s|sec|secs|min\.?)|` +
	`\d{4}[-/.]\d{2}[-/.]\d{2}(?:T.*)?|\d{1,2}:\d{2}(?::\d{2})?|(?:[\x{1F1E6}-\x{1F1FF}]{2})+)$`)

func wordSet(text string) map[string]struct{} {
	set := map[string]struct{}{}
	for _, word := range strings.Fields(strings.ToLower(text)) {
		set[word] = struct{}{}
	}
	return set
}

// description is the certainty that a text describes a proxy and is not a user name or a password.
type description uint8

const (
	noDescription       description = iota
	shortText                       // two lower case letters or up to three digits, such as de and 100
	possibleDescription             // the text may describe a proxy, or be a user name
	certainDescription
)

// descriptionOf returns the certainty that a text describes a proxy. It is the certainty of the least certain word.
func descriptionOf(text string) description {
	if strings.EqualFold(text, "n/a") {
		return possibleDescription
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t,()[]/", r) })
	lowest := certainDescription
	for _, word := range words {
		lowest = min(lowest, descriptionOfWord(word))
	}
	if len(words) == 0 {
		return noDescription
	}
	return lowest
}

// isPlaceholder reports whether a text stands for a value that is missing, such as None of Python.
func isPlaceholder(text string) bool {
	switch strings.ToLower(text) {
	case "none", "null", "nil", "undefined", "n/a", "-", "--":
		return true
	}
	return false
}

// decimalPattern matches a figure such as a response time in seconds.
var decimalPattern = regexp.MustCompile(`^\d{1,3}\.\d+$`)

func descriptionOfWord(word string) description {
	lower := strings.ToLower(word)
	_, isCountry := countryWords[lower]
	_, isKind := kindWords[lower]
	switch {
	case figurePattern.MatchString(word), isCountry && (lower != word || lower == "of" || lower == "and" ||
		lower == "the"):
		return certainDescription
	case isCountry, isKind, decimalPattern.MatchString(word):
		return possibleDescription
	case len(word) <= 3 && strings.Trim(word, "0123456789") == "",
		len(word) == 2 && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz") == "":
		return shortText
	}
	return noDescription
}

// figureName matches the beginning of a word that describes a proxy by a name and a value, such as speed=1.2.
var figureName = regexp.MustCompile(`^[A-Za-z_]+=`)

// isLogin reports whether two texts are taken for a user name and a password. The result is false if one of them
// certainly describes a proxy, if both have the form NAME=VALUE, or if both may describe a proxy. As an exception, two
// texts that are both shortText, such as de and 100, are taken for a login.
func isLogin(user, password string) bool {
	u, p := descriptionOf(user), descriptionOf(password)
	if figureName.MatchString(user) && figureName.MatchString(password) {
		return false
	}
	return user != "" && max(u, p) < certainDescription && (min(u, p) == noDescription || max(u, p) == shortText)
}
