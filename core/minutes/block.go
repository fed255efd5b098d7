package minutes

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
)

// Row is one minute of a Series.
type Row struct {
	Minute   int64 // since the Unix epoch
	Counts   []Count
	Bytes    uint64
	P50, P95 int // buckets of the median and the 95th percentile of the latencies; -1 without attempts
}

// exactKeys is the number of keys (cause and status) that keep their status when limitKeys shortens a row.
const exactKeys = 14

// limitKeys reduces the number of keys to at most blockKeys. The exactKeys keys with the most attempts stay. The others
// lose their status and become one key per cause. There are fewer causes than blockKeys-exactKeys.
func (r *Row) limitKeys() {
	if len(r.Counts) <= blockKeys {
		return
	}
	slices.SortFunc(r.Counts, func(a, b Count) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Key, b.Key)) })
	all := r.Counts
	r.Counts = slices.Clone(all[:exactKeys])
	for _, c := range all[exactKeys:] {
		r.addAttempts(KeyOf(c.Key.Cause(), 0), c.N)
	}
}

func (r *Row) addAttempts(k Key, n uint64) {
	if i := slices.IndexFunc(r.Counts, func(c Count) bool { return c.Key == k }); i >= 0 {
		r.Counts[i].N += n
	} else {
		r.Counts = append(r.Counts, Count{k, n})
	}
}

// Limits on a block.
const (
	blockMinutes = 240 // maximum number of minutes from its first row to its last one
	blockKeys    = 62  // maximum number of keys; a bit map of the keys and one more bit fit into 63 bits
)

// block holds encoded rows. A row is:
//
//	varint  bit map of the keys with attempts, shifted by 1; the lowest bit is set unless the row is of
//	        the minute after the previous row
//	varint  only if the lowest bit is set: number of minutes since the previous row; for the first row 0
//	varint  for each key of the bit map, its number of attempts
//	byte    only with attempts: two numbers of four bits. The first is the median's bucket minus that of the previous
//	        row with attempts, plus 7; the second is the 95th percentile's bucket minus the median's. 15 stands for a
//	        number that does not fit.
//	byte    for each 15, the bucket
//	varint  KiB
type block struct {
	start     int64 // minute of the first row
	last      int64 // minute of the last row
	keys      []Key // bit n of a bit map stands for keys[n]
	data      []byte
	p50       int // median's bucket of the last row with attempts; 0 before the first such row
	restBytes int // rest of the bytes of all rows, below 1 KiB; it is added to the next row
}

// Codes of the two numbers of four bits.
const (
	sameMedian    = 7  // the median's bucket is the same as in the last row with attempts
	bucketFollows = 15 // the number does not fit; a byte with the bucket follows
)

// hasRoomFor reports whether the row can be added to the block.
func (b *block) hasRoomFor(r *Row) bool {
	newKeys := 0
	for _, c := range r.Counts {
		if !slices.Contains(b.keys, c.Key) {
			newKeys++
		}
	}
	return r.Minute >= b.last && r.Minute-b.start < blockMinutes && len(b.keys)+newKeys <= blockKeys
}

// add appends a row. The caller has checked hasRoomFor(r).
func (b *block) add(r *Row) {
	gap := r.Minute - b.last
	var counts [blockKeys]uint64
	bitmap := uint64(0)
	for _, c := range r.Counts {
		i := slices.Index(b.keys, c.Key)
		if i < 0 {
			i = len(b.keys)
			b.keys = append(b.keys, c.Key)
		}
		counts[i] += c.N
		bitmap |= 1 << i
	}
	if gap == 1 {
		b.data = binary.AppendUvarint(b.data, bitmap<<1)
	} else {
		b.data = binary.AppendUvarint(b.data, bitmap<<1|1)
		b.data = binary.AppendUvarint(b.data, uint64(gap))
	}
	for i := range b.keys {
		if bitmap&(1<<i) != 0 {
			b.data = binary.AppendUvarint(b.data, counts[i])
		}
	}
	if bitmap != 0 {
		b.addLatencies(r.P50, r.P95)
	}
	bytes := uint64(b.restBytes) + r.Bytes
	b.restBytes = int(bytes & 1023)
	b.data = binary.AppendUvarint(b.data, bytes>>10)
	b.last = r.Minute
}

func (b *block) addLatencies(p50, p95 int) {
	code := func(n int) byte {
		if n < 0 || n >= bucketFollows {
			return bucketFollows
		}
		return byte(n)
	}
	median, above := code(p50-b.p50+sameMedian), code(p95-p50)
	b.data = append(b.data, median<<4|above)
	if median == bucketFollows {
		b.data = append(b.data, byte(p50))
	}
	if above == bucketFollows {
		b.data = append(b.data, byte(p95))
	}
	b.p50 = p50
}

// close releases the memory that is reserved for more rows. No row may be added to a closed block.
func (b *block) close() {
	b.keys, b.data = slices.Clip(slices.Clone(b.keys)), slices.Clip(slices.Clone(b.data))
}

var errBlock = errors.New("a block of minutes is damaged")

// eachRow calls f for every row, the oldest first. The row is valid until f returns.
func (b *block) eachRow(f func(*Row)) error {
	in := reader{rest: b.data}
	var row Row
	row.Minute = b.start
	p50 := 0
	for first := true; len(in.rest) > 0; first = false {
		head := in.uvarint()
		switch {
		case head&1 != 0:
			row.Minute += int64(in.uvarint())
		case first:
			return errBlock // the first row has the minute start, so its gap is 0
		default:
			row.Minute++
		}
		bitmap := head >> 1
		row.Counts = row.Counts[:0]
		for i := 0; bitmap>>i != 0; i++ {
			if bitmap&(1<<i) == 0 {
				continue
			}
			if i >= len(b.keys) {
				return errBlock
			}
			row.Counts = append(row.Counts, Count{b.keys[i], in.uvarint()})
		}
		row.P50, row.P95 = -1, -1
		if bitmap != 0 {
			code := in.byte()
			p50 += int(code>>4) - sameMedian
			if code>>4 == bucketFollows {
				p50 = int(in.byte())
			}
			row.P50, row.P95 = p50, p50+int(code&15)
			if code&15 == bucketFollows {
				row.P95 = int(in.byte())
			}
		}
		row.Bytes = in.uvarint() << 10
		if in.failed || row.P50 >= numBuckets || row.P95 >= numBuckets || row.P95 < row.P50 ||
			row.Minute-b.start >= blockMinutes || row.Minute < b.start {
			return errBlock
		}
		f(&row)
	}
	return nil
}

// reader reads an encoded block. Its field failed is set by a read beyond the end of the block.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.rest, r.failed = nil, true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.failed = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (b *block) encode() string {
	out := binary.AppendVarint(nil, b.start)
	out = binary.AppendUvarint(out, uint64(len(b.keys)))
	for _, k := range b.keys {
		out = binary.AppendUvarint(out, uint64(k))
	}
	return base64.RawStdEncoding.EncodeToString(append(out, b.data...))
}

// decode reads the result of encode. It does not check the rows.
func decode(text string) (b block, err error) {
	raw, err := base64.RawStdEncoding.DecodeString(text)
	start, n := binary.Varint(raw)
	if err != nil || n <= 0 {
		return b, errBlock
	}
	in := reader{rest: raw[n:]}
	b = block{start: start, last: start}
	keys := in.uvarint()
	if keys > blockKeys {
		return b, errBlock
	}
	for range keys {
		b.keys = append(b.keys, Key(in.uvarint()))
	}
	b.data = in.rest
	if in.failed {
		return b, errBlock
	}
	return b, nil
}
