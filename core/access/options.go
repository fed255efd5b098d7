package access

import "strings"

// maxOptioned is the maximum length in bytes of a user name with options.
const maxOptioned = 255

// Split splits a name that a client has sent into the name of a user and options: "ann-session-1" is the user "ann"
// with the options "session-1". If the whole name is that of a user, there are no options. If name begins with the
// names of several users, the longest of these names counts. If it begins with the name of no user, or is longer than
// maxOptioned, Split returns the name unchanged.
func (u *Users) Split(name string) (user, options string) {
	if len(name) > maxOptioned || u.get(u.digester.digest(name)) != nil {
		return name, ""
	}
	for end := strings.LastIndexByte(name, '-'); end > 0; end = strings.LastIndexByte(name[:end], '-') {
		if end < len(name)-1 && u.get(u.digester.digest(name[:end])) != nil {
			return name[:end], name[end+1:]
		}
	}
	return name, ""
}
