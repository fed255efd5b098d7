package access

import "strings"

// maxNameWithOptions is the maximum length in bytes of a user name with options.
const maxNameWithOptions = 255

// SplitName splits a name that a client has sent into the name of a user and options: "ann-session-1" is the user "ann"
// with the options "session-1". If the sent name begins with the names of several users, the longest of these names
// counts. If the sent name begins with no user's name, or is too long, SplitName returns it unchanged.
func (u *Users) SplitName(name string) (user, options string) {
	if len(name) > maxNameWithOptions || u.byDigest(u.digester.digest(name)) != nil {
		return name, ""
	}
	for end := strings.LastIndexByte(name, '-'); end > 0; end = strings.LastIndexByte(name[:end], '-') {
		if end < len(name)-1 && u.byDigest(u.digester.digest(name[:end])) != nil {
			return name[:end], name[end+1:]
		}
	}
	return name, ""
}
