package state

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Journal is a file of entries, one per line. Each line has a checksum, the number of the line, and the entry:
//
//	1f2e3d4c 17 {"set":{"policy":...}}
//
// The checksum is the CRC-32C (RFC 3720, appendix B.4) of the rest of the line. The first entry names the
// format. If the last line has no line break, the process or the machine ended while Append was writing
// this line. Any other line with a wrong checksum or number is damage.
//
// A Journal is not safe for concurrent use.
type Journal struct {
	fs           FS
	path         string
	file         File  // nil after Close
	nextLine     int   // number of the next line
	size         int64 // bytes of complete lines
	replacedSize int64 // size after the last Replace
	needsRepair  bool  // the file may have an incomplete last line or damage, so the next write must be a Replace
}

// format is the first entry of a journal.
const format = `"whirlpool state, format 1"`

// ErrFormat is wrapped in the error that OpenJournal returns for a journal of another format.
var ErrFormat = errors.New("the file has the format of another version")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Damage describes the damage of a journal. It is zero for an undamaged journal.
type Damage struct {
	Lines    []int  // numbers of damaged lines, from 1; at most maxDamage of them
	Missing  int    // known number of missing lines
	CopyPath string // path of a copy of the damaged file
}

// maxDamage is the maximum length of Damage.Lines.
const maxDamage = 20

// Exists reports whether there is damage.
func (d *Damage) Exists() bool { return len(d.Lines) > 0 || d.Missing > 0 }

// OpenJournal opens or creates a journal. It calls the function read with each undamaged entry, in the order in which
// the entries were written. If read returns an error, the line counts as damaged. An entry is valid only during the
// call. If the file is damaged, OpenJournal copies it to path.damaged-TIME and returns a description of the damage. The
// caller must then call Replace with the entries that it has read.
func OpenJournal(fsys FS, path string, now time.Time, read func(entry []byte) error) (j *Journal, damage Damage,
	err error,
) {
	j = &Journal{fs: fsys, path: path}
	if err := fsys.Remove(path + NewExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, damage, err
	}
	data, err := j.load()
	if errors.Is(err, fs.ErrNotExist) {
		return j, damage, j.Replace(nil)
	}
	if err != nil {
		return nil, damage, err
	}
	complete := bytes.LastIndexByte(data, '\n') + 1
	if damage, err = j.parse(data[:complete], read); err != nil {
		return nil, damage, fmt.Errorf("%s: %w", path, err)
	}
	if damage.Exists() {
		if damage.CopyPath, err = j.copyDamaged(data, now); err != nil {
			return nil, damage, err
		}
	}
	if j.file, err = fsys.Open(path, os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return nil, damage, err
	}
	j.size, j.replacedSize = int64(complete), int64(complete)
	j.needsRepair = complete < len(data) || damage.Exists()
	return j, damage, nil
}

func (j *Journal) load() ([]byte, error) {
	f, err := j.fs.Open(j.path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// parse calls read with each undamaged entry.
func (j *Journal) parse(data []byte, read func([]byte) error) (d Damage, err error) {
	line, damaged := 0, 0 // damaged counts the damaged lines since the last undamaged line
	for len(data) > 0 {
		var text []byte
		text, data, _ = bytes.Cut(data, []byte("\n"))
		line++
		n, entry, ok := parseLine(text)
		switch {
		case ok && n == 0 && line == 1:
			if string(entry) != format {
				return d, fmt.Errorf("%w: it begins with %.80q", ErrFormat, entry)
			}
		case ok && n >= j.nextLine && n > 0:
			d.Missing += max(n-j.nextLine-damaged, 0)
			ok = read(entry) == nil
		default:
			ok = false
		}
		if ok {
			j.nextLine, damaged = n+1, 0
			continue
		}
		damaged++ // a split line and an inserted line count as several damaged lines
		if len(d.Lines) < maxDamage {
			d.Lines = append(d.Lines, line)
		}
	}
	j.nextLine += damaged
	if line == 0 { // the file is empty: Replace creates the file with its first line, so this line is damaged
		d.Lines = []int{1}
	}
	return d, nil
}

// parseLine splits a line into its number and its entry. It returns false if the checksum is wrong or the number is not
// valid.
func parseLine(text []byte) (n int, entry []byte, ok bool) {
	sum, rest, _ := bytes.Cut(text, []byte(" "))
	if string(sum) != checksum(rest) {
		return 0, nil, false
	}
	number, entry, found := bytes.Cut(rest, []byte(" "))
	n, err := strconv.Atoi(string(number))
	return n, entry, found && err == nil && n >= 0
}

func checksum(text []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(text, castagnoli)) }

// writeLines writes a line for each entry. It returns the size of the lines and the number of the next line.
func writeLines(f io.Writer, number int, entries Entries) (size int64, nextNumber int, err error) {
	w := bufio.NewWriterSize(f, 64<<10)
	for entry, err := range entries {
		if err != nil {
			return size, number, err
		}
		text := append(strconv.AppendInt(nil, int64(number), 10), ' ')
		sum := crc32.Update(crc32.Checksum(text, castagnoli), castagnoli, entry)
		n, _ := fmt.Fprintf(w, "%08x %s", sum, text) // Flush returns the error of each write
		w.Write(entry)
		w.WriteByte('\n')
		size += int64(n + len(entry) + 1)
		number++
	}
	return size, number, w.Flush()
}

// copyDamaged writes the data to a file beside the damaged one, and returns its path.
func (j *Journal) copyDamaged(data []byte, now time.Time) (path string, err error) {
	path = j.path + ".damaged-" + now.UTC().Format("20060102T150405.000Z")
	f, err := j.fs.Open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err := cmp.Or(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	return path, j.fs.SyncDir(filepath.Dir(path))
}

// ErrClosed is returned by writes after Close.
var ErrClosed = errors.New("the state is closed")

// Entries are the entries of one write. An entry must not contain a line break. If the sequence yields an error, the
// write ends and fails.
type Entries = iter.Seq2[[]byte, error]

// oneEntry returns Entries with one entry.
func oneEntry(entry []byte) Entries {
	return func(yield func([]byte, error) bool) { yield(entry, nil) }
}

// Append adds entries. When it returns nil, they are on the disk. After an error the journal has none of the entries.
// But if the machine stops before the next write, the journal may have the first of these entries after a restart.
func (j *Journal) Append(entries Entries) error {
	if j.file == nil {
		return ErrClosed
	}
	size, next, err := writeLines(j.file, j.nextLine, entries)
	if err == nil && size > 0 {
		err = j.file.Sync()
	}
	if err != nil {
		j.needsRepair = true
		_ = j.file.Truncate(j.size) // if this fails, the next write repairs the file, because it is a Replace
		return err
	}
	j.nextLine = next
	j.size += size
	return nil
}

// minGrowth is the minimum number of bytes by which a journal grows before NeedsReplace reports that it is too large.
const minGrowth = 256 << 10

// NeedsReplace reports whether the next write should be a Replace: the file needs repair, or is too large. It is too
// large if its size is more than twice its size after the last Replace, plus minGrowth.
func (j *Journal) NeedsReplace() bool { return j.needsRepair || j.size > 2*j.replacedSize+minGrowth }

// Replace replaces all entries. When it returns nil, the new entries are on the disk. After an error the journal has
// the old entries or, if only the sync of the folder has failed, perhaps the new ones; the next write must be a
// Replace.
func (j *Journal) Replace(entries Entries) error {
	if j.file == nil && j.replacedSize > 0 {
		return ErrClosed
	}
	f, err := j.fs.Open(j.path+NewExt, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	size, next, err := writeLines(f, 0, func(yield func([]byte, error) bool) {
		if yield([]byte(format), nil) && entries != nil {
			entries(yield)
		}
	})
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.fs.Rename(j.path+NewExt, j.path)
	}
	if err != nil {
		f.Close()
		_ = j.fs.Remove(j.path + NewExt) // OpenJournal removes it if this fails
		return err
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.size, j.replacedSize = f, size, size
	j.nextLine = next
	// Until the folder is synced, a power cut would bring the old file back.
	err = j.fs.SyncDir(filepath.Dir(j.path))
	j.needsRepair = err != nil
	return err
}

// Close closes the file.
func (j *Journal) Close() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}
