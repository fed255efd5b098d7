package access

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSplit(t *testing.T) {
	u := NewUsers([]User{{Name: "ann"}, {Name: "ann-b"}, {Name: "ann-session-1"}, {Name: "-"}}, nil)
	for name, want := range map[string][2]string{
		"ann":                             {"ann", ""},
		"ann-session-2":                   {"ann", "session-2"},
		"ann-b-session-2":                 {"ann-b", "session-2"},
		"ann-session-1":                   {"ann-session-1", ""}, // a user of this name
		"ann-session-1-region-us":         {"ann-session-1", "region-us"},
		"ann-session-11":                  {"ann", "session-11"},
		"ann-":                            {"ann-", ""},
		"annabel-session-1":               {"annabel-session-1", ""},
		"session-1":                       {"session-1", ""},
		"-":                               {"-", ""},
		"--strict":                        {"-", "strict"},
		"":                                {"", ""},
		"ann" + strings.Repeat("-x", 200): {"ann" + strings.Repeat("-x", 200), ""}, // too long
	} {
		user, options := u.SplitName(name)
		require.Equal(t, want, [2]string{user, options}, name)
	}
}
