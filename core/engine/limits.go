package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/limit"
)

// checkLimits returns the first error in a list of limits as a *core.KeyError.
func checkLimits(entries []limit.Entry) error {
	faults := limit.CheckEntries(entries)
	if len(faults) == 0 {
		return nil
	}
	wrong := faults[0]
	key := fmt.Sprintf("limits[%d]", wrong.Index)
	if wrong.Field != "" {
		key += "." + wrong.Field
	}
	return &core.KeyError{Key: key, Err: errors.New(wrong.Msg)}
}

// setLimits puts the limits and tiers of cfg into effect. The usage that has been counted stays.
func (e *Engine) setLimits(cfg *Config) {
	e.pool.SetLimit(limit.DefaultLimit(cfg.Limits))
	e.selector.Limits().SetEntries(cfg.Limits, e.opts.Now())
	e.selector.SetTierAttempts(cfg.TierAttempts)
}

// SetStoreTime makes the days of all limits begin by the clock of the cluster's store, which showed the time store when
// this gateway's clock showed local.
func (e *Engine) SetStoreTime(local, store time.Time) {
	e.pool.SetStoreTime(local, store)
	e.selector.Limits().SetStoreTime(local, store)
	e.Accounts().SetStoreTime(local, store)
}

// UsedBytes returns the numbers of bytes that were transmitted today, so that the caller can save them. There is a
// number for each proxy with a limit on bytes, and for each pair of a proxy and a host with such a limit.
func (e *Engine) UsedBytes() []limit.SavedUsage {
	now := e.opts.Now()
	return append(e.pool.UsedBytes(now), e.selector.Limits().SavedUsages(now)...)
}

// RestoreUsedBytes restores the numbers of bytes that proxies, and pairs of a proxy and a host, transmitted today in an
// earlier process. Only Options.Restore may call it.
func (e *Engine) RestoreUsedBytes(used []limit.SavedUsage) {
	now := e.opts.Now()
	e.pool.RestoreUsed(used, now)
	e.selector.Limits().Restore(used, now)
}
