package main

import (
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notify reports a state to the service manager (sd_notify(3)). If there is no service manager (NOTIFY_SOCKET is not
// set), notify does nothing.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("the service manager cannot be notified", slog.String("state", state), slog.Any("error", err))
	}
}

// watchdog returns a channel that gets a value twice in each interval of the service manager's watchdog
// (sd_watchdog_enabled(3)). The channel is nil if there is no watchdog.
func watchdog(log *slog.Logger) (ticks <-chan time.Time, stop func()) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog of the service manager is not used", slog.Any("error", err))
	}
	if interval < 2 || err != nil {
		return nil, func() {}
	}
	t := time.NewTicker(interval / 2)
	return t.C, t.Stop
}
