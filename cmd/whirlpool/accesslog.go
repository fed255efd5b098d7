package main

import (
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
	"github.com/whirlpool-proxy/whirlpool/core/accesslog"
	"github.com/whirlpool-proxy/whirlpool/core/spool"
)

// accessLog is the access log with its file.
type accessLog struct {
	accesslog.Log
	standard io.Writer // used if there is no file
	log      *slog.Logger

	mu     sync.Mutex    // guards the fields below
	closed bool          // by close
	file   *os.File      // nil if there is none
	buffer *spool.Writer // writes to file; nil if there is none
}

func newAccessLog(standard io.Writer, log *slog.Logger) *accessLog {
	return &accessLog{standard: standard, log: log}
}

// openedAccessLog is an access log that has been opened and is not in use yet.
type openedAccessLog struct {
	filter accesslog.Filter
	format string
	file   *os.File // nil if there is none
}

// accessLogMode is the mode of a new access log. It is not readable for all users, because the log
// has addresses and names of users.
const accessLogMode = 0o640

// openAccessLog opens the access log that cfg configures. A file is opened again even if its path has not
// changed, because a program such as logrotate may have renamed it.
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

// discard closes an access log that is not in use.
func (o *openedAccessLog) discard() {
	if o.file != nil {
		o.file.Close()
	}
}

// use makes all further lines go to o, and closes the previous file.
func (a *accessLog) use(o *openedAccessLog) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed { // a reload ends after the gateway
		return
	}
	former, buffer := a.file, a.buffer
	out := a.standard
	a.file, a.buffer = o.file, nil
	if o.file != nil {
		a.buffer = spool.New(o.file, func(lines int) {
			a.log.Warn("lines of the access log were lost: writing to log.access_file failed", slog.Int("lines", lines))
		})
		out = a.buffer
	}
	o.file = nil // discard now has no effect
	a.Configure(o.filter, o.format, out)
	a.closeFile(former, buffer)
}

// close writes the lines that are still buffered, and closes the file. The log is not used any more.
func (a *accessLog) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.closeFile(a.file, a.buffer)
}

// closeFile writes the lines that are still buffered, and closes the file.
func (a *accessLog) closeFile(file *os.File, buffer *spool.Writer) {
	if file == nil {
		return
	}
	if err := buffer.Close(); err != nil {
		a.log.Warn("the end of the access log was not written", slog.Any("error", err))
	}
	file.Close()
}
