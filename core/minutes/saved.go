package minutes

import "slices"

// Saved holds the rows of series in a form for a file: it maps the name of each series to encoded blocks of rows. A row
// replaces a row of the same minute that was saved earlier.
type Saved map[string][]string

// The names of series in Saved. A prefix is followed by the id of the proxy or the host of the target.
const (
	nameAll          = "all"
	nameOtherTargets = "others"
	proxyName        = "proxy/"
	targetName       = "target/"
)

// Save returns the rows that have changed since the last call. If the argument all is true, it returns all rows. It
// must not be called concurrently.
func (s *Store) Save(all bool) Saved {
	out := Saved{}
	first := s.minuteOf(s.now()) - s.keepMinutes
	add := func(name string, series *Series) {
		if blocks := series.save(all, first); len(blocks) > 0 {
			out[name] = blocks
		}
	}
	add(nameAll, &s.allAttempts)
	add(nameOtherTargets, &s.otherTargets)
	s.proxies.each(func(id string, series *Series) { add(proxyName+id, series) })
	for host, series := range s.targets.all() {
		add(targetName+host, series)
	}
	return out
}

// save returns rows as encoded blocks. If the argument all is true, these are the rows from the minute first on.
// Otherwise they are the rows from the last saved minute on, but none if no row has changed since the last call.
func (s *Series) save(all bool, first int64) (blocks []string) {
	if !s.changed.Swap(false) && !all {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !all {
		first = max(first, s.savedMinute)
	}
	var out block
	flush := func() {
		if len(out.data) > 0 {
			blocks = append(blocks, out.encode())
		}
	}
	add := func(r *Row) {
		r.limitKeys()
		if len(out.data) == 0 || !out.hasRoomFor(r) {
			flush()
			out = block{start: r.Minute, last: r.Minute}
		}
		out.add(r)
		s.savedMinute = r.Minute
	}
	var row Row // the last row; the next row is merged into it if both are of the same minute
	s.eachRow(first, maxMinute, func(r *Row, _ *Latencies) {
		if row.Minute == r.Minute {
			row.merge(r)
			return
		}
		if row.Minute != 0 {
			add(&row)
		}
		row = r.clone()
	})
	if row.Minute != 0 {
		add(&row)
	}
	flush()
	return blocks
}

// maxMinute is later than all minutes.
const maxMinute = 1 << 40

func (r *Row) clone() Row {
	c := *r
	c.Counts = slices.Clone(r.Counts)
	return c
}

// merge adds the counts of another row of the same minute. The latencies of the row with more attempts are kept.
func (r *Row) merge(o *Row) {
	if o.attempts() > r.attempts() {
		r.P50, r.P95 = o.P50, o.P95
	}
	for _, c := range o.Counts {
		r.addAttempts(c.Key, c.N)
	}
	r.Bytes += o.Bytes
}

func (r *Row) attempts() (n uint64) {
	for _, c := range r.Counts {
		n += c.N
	}
	return n
}

// Restore adds the rows that Save returned in an earlier process. It skips damaged blocks. Before anything is counted,
// the caller passes each result of Save to Restore, in order, and then calls EndRestore once.
func (s *Store) Restore(saved Saved) {
	last := s.minuteOf(s.now())
	for name, blocks := range saved {
		series := s.seriesByName(name)
		if series == nil {
			continue
		}
		for _, text := range blocks {
			b, err := decode(text)
			if err == nil {
				err = b.eachRow(func(*Row) {}) // checks all rows before any is added
			}
			if err != nil {
				continue
			}
			_ = b.eachRow(func(r *Row) {
				if r.Minute >= last-s.keepMinutes && r.Minute <= last {
					series.restoreRow(r)
				}
			})
		}
	}
}

// EndRestore adds the last restored row of each series. It must be called after the last Restore.
func (s *Store) EndRestore() {
	end := func(_ string, series *Series) { series.endRestore() }
	end("", &s.allAttempts)
	end("", &s.otherTargets)
	s.proxies.each(end)
	for host, series := range s.targets.all() {
		end(host, series)
	}
}

// restoreRow keeps a row in pendingRow until the next call. If the next row is of the same minute, it replaces the kept
// row; otherwise the kept row is added to the series.
func (s *Series) restoreRow(r *Row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pendingRow != nil && s.pendingRow.Minute != r.Minute {
		s.appendRow(s.pendingRow)
	}
	row := r.clone()
	s.pendingRow = &row
}

func (s *Series) endRestore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pendingRow != nil {
		s.appendRow(s.pendingRow)
		s.minute.Store(s.pendingRow.Minute)
		s.savedMinute, s.pendingRow = s.pendingRow.Minute, nil
	}
}
