package config

import (
	"fmt"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core/limit"
)

// Limit is one entry of [[limits]]; see limit.Entry.
type Limit struct {
	Host        string   `koanf:"host" json:"host,omitempty"`
	MaxInFlight int      `koanf:"max_in_flight" json:"max_in_flight,omitempty"`
	Rate        float64  `koanf:"rate" json:"rate,omitempty"`
	MinInterval Duration `koanf:"min_interval" json:"min_interval,omitempty"`
	BytesPerDay Size     `koanf:"bytes_per_day" json:"bytes_per_day,omitempty"`
}

// limitList returns the limits of [[limits]] in the form that the engine takes.
func (c *Config) limitList() []limit.Entry {
	list := make([]limit.Entry, 0, len(c.Limits))
	for _, l := range c.Limits {
		list = append(list, limit.Entry{Host: l.Host, Limit: limit.Limit{
			MaxInFlight: l.MaxInFlight, Rate: l.Rate, MinInterval: time.Duration(l.MinInterval),
			BytesPerDay: int64(l.BytesPerDay),
		}})
	}
	return list
}

// checkLimits adds a fault for each error in [[limits]].
func (l *loader) checkLimits() {
	for _, wrong := range limit.CheckEntries(l.cfg.limitList()) {
		key := fmt.Sprintf("limits[%d]", wrong.Index)
		if wrong.Field != "" {
			key += "." + wrong.Field
		}
		l.addFault(key, nil, wrong.Msg)
	}
}
