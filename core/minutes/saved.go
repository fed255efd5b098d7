package minutes

import "slices"

// Saved holds the rows of series in a form for a file: for each series, blocks as text. A row replaces a row of the
// same minute that was saved earlier.
type Saved map[string][]string

// The names of series in Saved. A prefix is followed by the id of the proxy or the host of the target.
const (
	nameAll    = "all"
	nameOthers = "others"
	proxyName  = "proxy/"
	targetName = "target/"
)

// Save returns the rows of all series that have changed since the last call. If the parameter all is set, it returns
// all rows of all series. It must not be called concurrently.
func (s *Store) Save(all bool) Saved {
	out := Saved{}
	first := s.minute(s.now()) - s.keep
	add := func(name string, series *Series) {
		if blocks := series.save(all, first); len(blocks) > 0 {
			out[name] = blocks
		}
	}
	add(nameAll, &s.all)
	add(nameOthers, &s.others)
	s.proxies.each(func(id string, series *Series) { add(proxyName+id, series) })
	for host, series := range s.targets.all() {
		add(targetName+host, series)
	}
	return out
}

// save returns rows in encoded blocks. If the parameter all is set, these are all rows from the minute first on;
// otherwise the rows from the last saved minute on.
func (s *Series) save(all bool, first int64) (blocks []string) {
	if !s.changed.Swap(false) && !all {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !all {
		first = max(first, s.saved)
	}
	var out block
	flush := func() {
		if len(out.data) > 0 {
			blocks = append(blocks, out.encode())
		}
	}
	add := func(r *Row) {
		r.limit()
		if len(out.data) == 0 || !out.takes(r) {
			flush()
			out = block{start: r.Minute, last: r.Minute}
		}
		out.add(r)
		s.saved = r.Minute
	}
	var row Row // the last row; the next row is merged into it if both are of the same minute
	s.each(first, maxMinute, func(r *Row, _ *Latencies) {
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

// clone returns a copy that shares no memory with r.
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
		r.count(c.Key, c.N)
	}
	r.Bytes += o.Bytes
}

func (r *Row) attempts() (n uint64) {
	for _, c := range r.Counts {
		n += c.N
	}
	return n
}

// Restore adds the rows that Save returned in an earlier process. The caller calls Restore with each result of Save in
// turn and then EndRestore once, before anything is counted. Damaged blocks are skipped.
func (s *Store) Restore(saved Saved) {
	last := s.minute(s.now())
	for name, blocks := range saved {
		series := s.named(name)
		if series == nil {
			continue
		}
		for _, text := range blocks {
			b, err := decode(text)
			if err == nil {
				err = b.each(func(*Row) {}) // checks all rows before any is added
			}
			if err != nil {
				continue
			}
			_ = b.each(func(r *Row) {
				if r.Minute >= last-s.keep && r.Minute <= last {
					series.restore(r)
				}
			})
		}
	}
}

// EndRestore ends the restoring of rows.
func (s *Store) EndRestore() {
	end := func(_ string, series *Series) { series.endRestore() }
	end("", &s.all)
	end("", &s.others)
	s.proxies.each(end)
	for host, series := range s.targets.all() {
		end(host, series)
	}
}

// restore adds a row. It holds back the last row in s.restored, because the next row replaces the last one if both are
// of the same minute.
func (s *Series) restore(r *Row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restored != nil && s.restored.Minute != r.Minute {
		s.append(s.restored)
	}
	row := r.clone()
	s.restored = &row
}

func (s *Series) endRestore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restored != nil {
		s.append(s.restored)
		s.minute.Store(s.restored.Minute)
		s.saved, s.restored = s.restored.Minute, nil
	}
}
