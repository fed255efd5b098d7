package api

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/ability"
	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// abilitiesView is the JSON of a proxy's abilities.
type abilitiesView struct {
	Forward      abilityView `json:"forward"`
	Connect443   abilityView `json:"connect_443"`
	ConnectOther abilityView `json:"connect_other"`
}

// abilityView is the JSON of one ability.
type abilityView struct {
	State   string     `json:"state"`    // yes, no or unknown
	Source  string     `json:"source"`   // traffic or check; "" if the state is unknown
	Since   *time.Time `json:"since"`    // null if the state is unknown
	RetryAt *time.Time `json:"retry_at"` // null unless the state is no
}

func viewOfAbilities(pool Pool, u *upstream.Upstream) abilitiesView {
	view := func(k ability.Kind) abilityView {
		known := u.Ability(k)
		v := abilityView{State: known.State.String()}
		if known.State == ability.Unknown {
			return v
		}
		since := timeAt(pool, known.Since)
		v.Source, v.Since = known.Source.String(), &since
		if known.State == ability.Cannot {
			until := timeAt(pool, known.Until)
			v.RetryAt = &until
		}
		return v
	}
	return abilitiesView{view(ability.Forward), view(ability.TunnelTLS), view(ability.TunnelOther)}
}

// checkView is the JSON of the result of a proxy's last health check.
type checkView struct {
	At             time.Time `json:"at"`
	Passed         bool      `json:"passed"`
	Error          string    `json:"error"`           // "" if the check passed
	Latency        float64   `json:"latency"`         // s; 0 if the check failed
	TLSIntercepted bool      `json:"tls_intercepted"` // the proxy presents its own certificate instead of the target's
}

func viewOfCheck(pool Pool, u *upstream.Upstream) *checkView {
	r := u.LastCheck()
	if r == nil {
		return nil
	}
	return &checkView{
		At: timeAt(pool, r.At), Passed: r.Passed, Error: r.Fault, Latency: r.Latency.Seconds(),
		TLSIntercepted: r.Intercepted,
	}
}

// exitAddress returns the address from which the proxy connects to targets; "" if it is unknown.
func exitAddress(u *upstream.Upstream) string {
	if r := u.LastCheck(); r != nil && r.Exit.IsValid() {
		return r.Exit.String()
	}
	return ""
}
