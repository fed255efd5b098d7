package plugins

import "github.com/whirlpool-proxy/whirlpool/plugins/output"

// outputOf returns the output of a plugin, a new one for a name that the registry does not have yet.
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

// Log returns the last lines that a plugin wrote whose number is above after, the oldest first; at most
// output.MaxLines are kept. The error wraps core.ErrNotFound.
func (r *Registry) Log(name string, after uint64) ([]output.Line, error) {
	p := r.get(name)
	if p == nil {
		return nil, notFound(name)
	}
	return p.current.Load().output.Lines(after), nil
}
