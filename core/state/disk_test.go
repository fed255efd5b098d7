package state_test

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/whirlpool-proxy/whirlpool/core/state"
)

// disk is a file system in memory. A power cut loses what was not synced: bytes of files, and entries of folders.
type disk struct {
	mu      sync.Mutex
	entries map[string]*inode // by path, as the processes see them
	synced  map[string]*inode // as they are on the disk
	fail    func(call string) error
}

type inode struct {
	data   []byte // as the processes see them
	synced []byte // as they are on the disk
}

func newDisk() *disk { return &disk{entries: map[string]*inode{}, synced: map[string]*inode{}} }

// newFailingDisk returns a disk on which a quarter of the calls fail, until the returned number of failures is used up.
func newFailingDisk(r *rand.Rand) (d *disk, failures *int) {
	d, failures = newDisk(), new(int)
	d.fail = func(string) error {
		if *failures > 0 && r.IntN(4) == 0 {
			*failures--
			return errDisk
		}
		return nil
	}
	return d, failures
}

func (d *disk) failing(call string) error {
	if d.fail == nil {
		return nil
	}
	return d.fail(call)
}

// cut simulates a power cut. A random part of the data that were not synced is on the disk.
func (d *disk) cut(r *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := slices.Sorted(maps.Keys(d.entries))
	for name := range d.synced {
		if _, held := d.entries[name]; !held {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	next := map[string]*inode{}
	for _, name := range names {
		node := d.synced[name]
		if r.IntN(2) == 0 {
			node = d.entries[name]
		}
		if node != nil {
			next[name] = node
		}
	}
	done := map[*inode]bool{}
	for _, name := range slices.Sorted(maps.Keys(next)) {
		node := next[name]
		if done[node] {
			continue
		}
		done[node] = true
		node.data = torn(r, node.synced, node.data)
		node.synced = node.data
	}
	d.entries, d.synced = next, maps.Clone(next)
}

// torn returns the contents of a file after a power cut: some pages of the old contents and some of the new ones, or
// the new size with zeros. The file had the old contents at its last sync, and the new ones at the power cut.
func torn(r *rand.Rand, old, new []byte) []byte {
	if string(old) == string(new) {
		return old
	}
	const page = 64
	out := make([]byte, len(old))
	if r.IntN(2) == 0 && len(new) > len(old) || len(new) < len(old) && r.IntN(2) == 0 {
		out = make([]byte, len(new))
	}
	copy(out, old)
	for at := 0; at < len(out); at += page {
		if r.IntN(2) == 0 && at < len(new) {
			copy(out[at:min(at+page, len(out))], new[at:])
		}
	}
	if len(new) > len(old) && len(out) == len(old) { // only the beginning of what was added
		out = append(out, new[len(old):len(old)+r.IntN(len(new)-len(old)+1)]...)
	}
	return out
}

func (d *disk) Open(name string, flag int, _ os.FileMode) (state.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failing("open"); err != nil {
		return nil, err
	}
	node := d.entries[name]
	if node == nil {
		if flag&os.O_CREATE == 0 {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		node = &inode{}
		d.entries[name] = node
	}
	if flag&os.O_TRUNC != 0 {
		node.data = nil
	}
	return &handle{disk: d, node: node}, nil
}

func (d *disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failing("rename"); err != nil {
		return err
	}
	d.entries[to] = d.entries[from]
	delete(d.entries, from)
	return nil
}

func (d *disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.entries[name] == nil {
		return fs.ErrNotExist
	}
	delete(d.entries, name)
	return nil
}

func (d *disk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failing("syncdir"); err != nil {
		return err
	}
	for path := range d.synced {
		if filepath.Dir(path) == name && d.entries[path] == nil {
			delete(d.synced, path)
		}
	}
	for path, node := range d.entries {
		if filepath.Dir(path) == name {
			d.synced[path] = node
		}
	}
	return nil
}

// names returns the paths that have a part in them.
func (d *disk) names(part string) (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.entries {
		if strings.Contains(name, part) {
			names = append(names, name)
		}
	}
	return names
}

// handle is an open file, which is written at its end.
type handle struct {
	disk *disk
	node *inode
	at   int
}

func (h *handle) Read(p []byte) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.at >= len(h.node.data) {
		return 0, io.EOF
	}
	n := copy(p, h.node.data[h.at:])
	h.at += n
	return n, nil
}

func (h *handle) Write(p []byte) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.failing("write"); err != nil {
		n := len(p) / 2 // a full disk writes a part of p
		h.node.data = append(slices.Clip(h.node.data), p[:n]...)
		return n, err
	}
	h.node.data = append(slices.Clip(h.node.data), p...)
	return len(p), nil
}

func (h *handle) Sync() error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.failing("sync"); err != nil {
		return err
	}
	h.node.synced = h.node.data
	return nil
}

func (h *handle) Truncate(size int64) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if err := h.disk.failing("truncate"); err != nil {
		return err
	}
	h.node.data = h.node.data[:size:size]
	return nil
}

func (h *handle) Close() error { return nil }

var errDisk = errors.New("no space left on device")
