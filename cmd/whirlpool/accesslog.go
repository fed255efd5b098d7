package main

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/otlp"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/spool"
)

// accessLog is the access log of the gateway, with the file to which it writes.
type accessLog struct {
	accesslog.Log
	defaultOutput io.Writer // output of the lines if there is no file
	log           *slog.Logger

	mu     sync.Mutex    // guards the fields below
	closed bool          // close was called
	file   *os.File      // nil if there is none
	buffer *spool.Writer // writes to file; nil if there is none
}

func newAccessLog(defaultOutput io.Writer, log *slog.Logger) *accessLog {
	return &accessLog{defaultOutput: defaultOutput, log: log}
}

// requestLog passes each client request that has ended to the access log and to the exporter of traces.
type requestLog struct {
	access *accesslog.Log
	traces *otlp.Exporter
}

// On implements gateway.AccessLog.
func (l *requestLog) On() bool {
	_, traced := l.traces.Ratio()
	return traced || l.access.IsOn()
}

// Write implements gateway.AccessLog.
func (l *requestLog) Write(r *accesslog.Record) {
	l.access.Write(r)
	l.traces.Write(r)
}

// lostLinesInterval is the minimum time between two records about lost lines while the file cannot be written.
const lostLinesInterval = time.Minute

// lostAttrs returns the attributes of a record about lost lines of a log: the number of lines, and the error. If err
// is nil, the lines were lost because the output of the log was too slow.
func lostAttrs(unit string, n int, err error) []any {
	if err == nil {
		err = errors.New("the output is too slow")
	}
	return []any{slog.Int(unit, n), slog.Any("error", err)}
}

// openedAccessLog is a newly opened access log. The gateway writes to it after a call of replaceFile.
type openedAccessLog struct {
	filter accesslog.Filter
	format string
	file   *os.File // nil if there is none
}

// accessLogMode is the file mode of a new access log. The log has the addresses of clients and the names of users.
const accessLogMode = 0o640

// openAccessLog opens the access log that cfg configures. It opens the file again if its path is unchanged, because a
// program such as logrotate may have renamed the previous file.
func openAccessLog(cfg *config.Config) (*openedAccessLog, error) {
	filter, err := accesslog.ParseFilter(cfg.Log.Access)
	if err != nil {
		return nil, &config.Error{Faults: []config.Fault{cfg.Fault("log.access", cfg.Log.Access, err.Error())}}
	}
	o := &openedAccessLog{filter: filter, format: cfg.Log.AccessFormat}
	if path := cfg.Log.AccessFile; path != "" && cfg.Log.Access != "off" {
		o.file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, accessLogMode)
		if err != nil {
			return nil, &config.Error{Faults: []config.Fault{
				cfg.Fault("log.access_file", path, "the file cannot be written: "+err.Error())}}
		}
	}
	return o, nil
}

// closeUnused closes the file, unless replaceFile has taken it over.
func (o *openedAccessLog) closeUnused() {
	if o.file != nil {
		o.file.Close()
	}
}

// replaceFile makes the log write new lines to the file of o, and closes the previous file.
func (a *accessLog) replaceFile(o *openedAccessLog) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed { // close was called while a reload was running
		return
	}
	previousFile, previousBuffer := a.file, a.buffer
	out := a.defaultOutput
	a.file, a.buffer = o.file, nil
	if o.file != nil {
		a.buffer = spool.NewReported(o.file, lostLinesInterval, func(lines int, err error) {
			a.log.Warn("lines of the access log were lost: writing to log.access_file failed",
				lostAttrs("lines", lines, err)...)
		})
		out = a.buffer
	}
	o.file = nil // after this, closeUnused has no effect
	a.Configure(o.filter, o.format, out)
	a.closeFile(previousFile, previousBuffer)
}

// close closes the file. Nothing may be written to the log after that.
func (a *accessLog) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.closeFile(a.file, a.buffer)
}

// closeFile writes the buffered lines to the file, if any, and closes it.
func (a *accessLog) closeFile(file *os.File, buffer *spool.Writer) {
	if file == nil {
		return
	}
	if err := buffer.Close(); err != nil {
		a.log.Warn("the end of the access log was not written", slog.Any("error", err))
	}
	file.Close()
}
