package plugins

import "github.com/whirlpool-proxy/whirlpool/plugins/output"

// outputOf returns the output of the plugin with the given name. If there is no such plugin, it returns a new output.
func (r *Registry) outputOf(name string) *output.Output {
	if all := r.byName.Load(); all != nil {
		if p := (*all)[name]; p != nil {
			return p.current.Load().output
		}
	}
	var onLine func(output.Line)
	if r.opts.OnLine != nil {
		onLine = func(l output.Line) { r.opts.OnLine(name, l) }
	}
	return output.New(r.now, onLine)
}

// Log returns the plugin's log lines whose number is greater than the parameter afterNumber, the oldest first. The
// registry keeps the last output.MaxLines lines of each plugin. The error wraps core.ErrNotFound.
func (r *Registry) Log(name string, afterNumber uint64) ([]output.Line, error) {
	p := r.get(name)
	if p == nil {
		return nil, r.notFound(name)
	}
	return p.current.Load().output.Lines(afterNumber), nil
}
