package api

import (
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/upstream"
)

// limitsView is the JSON of the limits of a proxy, and of their usage. Limits that the proxy does not have are left
// out.
type limitsView struct {
	Rate         float64    `json:"rate,omitempty"`         // attempts a second
	MinInterval  string     `json:"min_interval,omitempty"` // such as "500ms"
	BytesPerDay  int64      `json:"bytes_per_day,omitempty"`
	BytesToday   *int64     `json:"bytes_today,omitempty"`   // set only if the proxy has limits
	LimitedUntil *time.Time `json:"limited_until,omitempty"` // set only while the proxy is at a limit with a known end
}

// limitsOf returns the limits of a proxy. A limit that the proxy does not set itself comes from [[limits]].
func limitsOf(u *upstream.Upstream) limitsView {
	l := u.Limit()
	v := limitsView{Rate: l.Rate, BytesPerDay: l.BytesPerDay}
	if l.MinInterval > 0 {
		v.MinInterval = l.MinInterval.String()
	}
	if use, ok := u.LimitUse(); ok {
		v.BytesToday = &use.Bytes
		if !use.Until.IsZero() {
			until := use.Until.UTC()
			v.LimitedUntil = &until
		}
	}
	return v
}
