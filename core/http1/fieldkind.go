package http1

import (
	"bytes"
)

// maxNominated is the maximum number of field names in Connection. It is limited because markNominated compares each
// name with each field.
const maxNominated = 100

// markNominated marks the fields that Connection names as hop-by-hop. It changes only fields of the kinds Other and
// RequestID. A sender therefore cannot remove Host or the framing in this way.
func markNominated(fields []Field) {
	for i := range fields {
		if fields[i].Kind != Connection {
			continue
		}
		for rest := fields[i].Value; len(rest) > 0; {
			var token []byte
			token, rest = nextToken(rest)
			for j := range fields {
				if fields[j].Kind.isOther() && len(token) > 0 && equalFoldBytes(fields[j].Name, token) {
					fields[j].Kind = Nominated
				}
			}
		}
	}
}

// Classify sets the kinds of fields that do not come from a Reader. The kinds include Nominated.
func Classify(fields []Field) {
	for i := range fields {
		fields[i].Kind = kindOf(fields[i].Name)
	}
	markNominated(fields)
}

func nextToken(list []byte) (token, rest []byte) {
	token, rest, _ = bytes.Cut(list, comma)
	return trim(token), rest
}

// kindOf returns the kind of the field with the given name, which may be in upper or lower case.
func kindOf(name []byte) Kind {
	switch len(name) {
	case 2:
		return kindIf(name, "te", TE)
	case 3:
		return kindIf(name, "via", Via)
	case 4:
		return kindIf(name, "host", Host)
	case 6:
		return kindIf(name, "expect", Expect)
	case 7:
		if k := kindIf(name, "upgrade", Upgrade); k != Other {
			return k
		}
		return kindIf(name, "trailer", Trailer)
	case 10:
		if k := kindIf(name, "connection", Connection); k != Other {
			return k
		}
		if k := kindIf(name, "proxy-loop", ProxyLoop); k != Other {
			return k
		}
		return kindIf(name, "keep-alive", KeepAlive)
	case 11:
		return kindIf(name, "retry-after", RetryAfter)
	case 12:
		if k := kindIf(name, "max-forwards", MaxForwards); k != Other {
			return k
		}
		if k := kindIf(name, "x-request-id", RequestID); k != Other {
			return k
		}
	case 14:
		if k := kindIf(name, "content-length", ContentLength); k != Other {
			return k
		}
	case 16:
		if k := kindIf(name, "proxy-connection", ProxyConnection); k != Other {
			return k
		}
	case 17:
		if k := kindIf(name, "transfer-encoding", TransferEncoding); k != Other {
			return k
		}
	case 18:
		if k := kindIf(name, "proxy-authenticate", ProxyAuthenticate); k != Other {
			return k
		}
	case 19:
		if k := kindIf(name, "proxy-authorization", ProxyAuthorization); k != Other {
			return k
		}
	case 25:
		if k := kindIf(name, "proxy-authentication-info", ProxyAuthenticationInfo); k != Other {
			return k
		}
	}
	if len(name) >= len(whirlpool) {
		return kindIf(name[:len(whirlpool)], whirlpool, Whirlpool)
	}
	return Other
}

const whirlpool = "x-whirlpool-"

func kindIf(name []byte, lower string, k Kind) Kind {
	if name[0]|0x20 == lower[0] && equalFold(name, lower) {
		return k
	}
	return Other
}
