package state_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/whirlpool-proxy/whirlpool/core/state"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return noon }

// values returns the records as JSON texts.
func values(s *state.Store) map[string]string {
	out := map[string]string{}
	for key, r := range s.All() {
		out[key] = string(r.Value)
	}
	return out
}

func open(t require.TestingT, fs state.FS, dir string) (*state.Store, state.Damage) {
	s, damage, err := state.OpenStore(fs, dir, "changes", clock)
	require.NoError(t, err)
	return s, damage
}

// Power cuts lose no write that has returned nil, and a write that has failed is never made in part. The disk
// also fails at random moments.
func TestPowerCutsLoseNothingThatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		d, failures := newFailingDisk(r)
		s, _ := open(t, d, "/state")
		written := map[string]string{}
		var unsure []map[string]string // other possible contents, after writes that failed
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				*failures = rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(t, "failures")
				changes, next := map[string]any{}, map[string]string{}
				for key, value := range written {
					next[key] = value
				}
				for i := range rapid.IntRange(1, 3).Draw(t, "changes") {
					key := fmt.Sprint("k", rapid.IntRange(0, 5).Draw(t, fmt.Sprint("key", i)))
					value := strings.Repeat("x", rapid.SampledFrom([]int{0, 5, 200}).Draw(t, fmt.Sprint("value", i)))
					if value == "" {
						changes[key] = nil
						delete(next, key)
					} else {
						changes[key] = value
						text, _ := json.Marshal(value)
						next[key] = string(text)
					}
				}
				err := s.Write(changes)
				*failures = 0
				if err != nil {
					unsure = append(unsure, next)
				} else {
					written, unsure = next, nil
				}
				require.Equal(t, written, values(s))
			},
			"power cut": func(t *rapid.T) {
				d.cut(r)
				s, _ = open(t, d, "/state")
				got := values(s)
				for _, other := range unsure {
					if fmt.Sprint(got) == fmt.Sprint(other) {
						written = other
					}
				}
				require.Equal(t, written, got)
				unsure = nil
			},
			"restart": func(t *rapid.T) {
				if len(unsure) > 0 {
					return // as after a power cut
				}
				require.NoError(t, s.Close())
				require.ErrorIs(t, s.Write(map[string]any{"k0": 1}), state.ErrClosed)
				var damage state.Damage
				s, damage = open(t, d, "/state")
				require.False(t, damage.Exists())
				require.Equal(t, written, values(s))
			},
		})
	})
}

// A write during a power cut is made completely or not at all.
func TestAPowerCutDuringAWrite(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 2))
		d := newDisk()
		s, _ := open(t, d, "/state")
		require.NoError(t, s.Write(map[string]any{"a": 1, "b": 1}))
		large := strings.Repeat("y", int(seed%7)*300)
		calls := r.IntN(3)
		d.fail = func(string) error {
			if calls--; calls < 0 {
				return errDisk // nothing reaches the disk any more
			}
			return nil
		}
		err := s.Write(map[string]any{"a": 2, "b": 2, "c": large})
		d.fail = nil
		d.cut(r)
		s, _ = open(t, d, "/state")
		got := values(s)
		switch {
		case got["a"] == "1" && err != nil:
			require.Equal(t, map[string]string{"a": "1", "b": "1"}, got)
		default:
			require.Equal(t, "2", got["a"], "seed %d", seed)
			require.Equal(t, "2", got["b"], "seed %d", seed)
			require.Len(t, got, 3)
		}
		require.NoError(t, s.Write(map[string]any{"d": 1}))
	}
}

// A damaged file is copied, the damage is described, and all undamaged records are read.
func TestDamage(t *testing.T) {
	fill := func() (*disk, []byte) {
		d := newDisk()
		s, _ := open(t, d, "/state")
		for i := range 5 {
			require.NoError(t, s.Write(map[string]any{fmt.Sprint("k", i): i}))
		}
		return d, d.entries["/state/changes"].data
	}
	all := []string{"k0", "k1", "k2", "k3", "k4"}
	for name, test := range map[string]struct {
		damage func(lines []string) string
		lines  []int
		lost   string
	}{
		"a flipped bit": {func(l []string) string {
			l[3] = strings.Replace(l[3], "k2", "k3", 1)
			return join(l)
		}, []int{4}, "k2"},
		"a line is gone": {func(l []string) string { return join(append(l[:2], l[3:]...)) }, nil, "k1"},
		"no line break": {func(l []string) string {
			l[2] += l[3]
			return join(append(l[:3], l[4:]...))
		}, []int{3}, "k1 k2"},
		"a line is split": {func(l []string) string {
			return join(append(append(append([]string{}, l[:2]...), l[2][:5], l[2][5:]), l[3:]...))
		}, []int{3, 4}, "k1"},
		"empty lines": {func(l []string) string {
			return join(append(append(append([]string{}, l[:2]...), "", ""), l[2:]...))
		}, []int{3, 4}, ""},
		"the head":        {func(l []string) string { l[0] = "x"; return join(l) }, []int{1}, ""},
		"a line twice":    {func(l []string) string { l[4] = l[3]; return join(l) }, []int{5}, "k3"},
		"nothing is left": {func([]string) string { return "" }, []int{1}, "k0 k1 k2 k3 k4"},
		"no journal":      {func([]string) string { return "hello" }, []int{1}, "k0 k1 k2 k3 k4"},
		"no value": {func(l []string) string {
			return join(append(l, line(6, "[1]")))
		}, []int{7}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, data := fill()
			bad := []byte(test.damage(strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")))
			d.entries["/state/changes"].data = bad
			s, damage := open(t, d, "/state")
			require.True(t, damage.Exists())
			require.Equal(t, test.lines, damage.Lines)
			require.Equal(t, []string{damage.CopyPath}, d.names(".damaged-20261128T120000.000Z"))
			require.Equal(t, string(bad), string(d.entries[damage.CopyPath].data))
			for i, key := range all {
				_, held := s.Get(key)
				require.Equal(t, !strings.Contains(test.lost, key), held, "%s %d", key, i)
			}
			before := values(s)
			s, damage = open(t, d, "/state")
			require.False(t, damage.Exists())
			require.Equal(t, before, values(s))
		})
	}
}

// line is a line of a journal.
func line(n int, entry string) string {
	text := fmt.Sprintf("%d %s", n, entry)
	return fmt.Sprintf("%08x %s", crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli)), text)
}

func join(lines []string) string { return strings.Join(lines, "\n") + "\n" }

// Each change of a single byte on the disk is detected.
func TestEachChangedByteIsFound(t *testing.T) {
	d := newDisk()
	s, _ := open(t, d, "/state")
	require.NoError(t, s.Write(map[string]any{"a": "one", "b": "two"}))
	require.NoError(t, s.Write(map[string]any{"c": "three"}))
	good := d.entries["/state/changes"].data
	for i := range good[:len(good)-1] { // without the last line break the last line was not written completely
		bad := []byte(string(good))
		bad[i] ^= 1 << (i % 8)
		d.entries["/state/changes"].data = bad
		_, damage := open(t, d, "/state")
		require.True(t, damage.Exists(), "byte %d", i)
	}
}

func TestAnotherFormatIsRefused(t *testing.T) {
	d := newDisk()
	d.entries["/state/changes"] = &inode{data: []byte(line(0, `"whirlpool state, format 2"`) + "\n")}
	_, _, err := state.OpenStore(d, "/state", "changes", clock)
	require.ErrorIs(t, err, state.ErrFormat)
}

// The file does not grow without limit.
func TestTheFileStaysSmall(t *testing.T) {
	d := newDisk()
	s, _ := open(t, d, "/state")
	for i := range 5000 {
		require.NoError(t, s.Write(map[string]any{fmt.Sprint("k", i%10): strings.Repeat("z", 100)}))
	}
	require.Less(t, len(d.entries["/state/changes"].data), 300<<10)
	s, damage := open(t, d, "/state")
	require.False(t, damage.Exists())
	require.Len(t, s.All(), 10)
}

// Users see when a change was made (GET /state), so a new file must keep the times.
func TestANewFileKeepsTheTimesOfRecords(t *testing.T) {
	now, dir := noon, t.TempDir()
	open := func() *state.Store {
		s, _, err := state.OpenStore(state.OS{}, dir, "changes", func() time.Time { return now })
		require.NoError(t, err)
		return s
	}
	s := open()
	require.NoError(t, s.Write(map[string]any{"first": 1}))
	size := func() int64 {
		info, err := os.Stat(s.Path())
		require.NoError(t, err)
		return info.Size()
	}
	for before := int64(0); size() >= before; { // until a new file has replaced the old one
		before = size()
		now = now.Add(time.Second)
		require.NoError(t, s.Write(map[string]any{"other": strings.Repeat("x", 10_000)}))
	}
	for range 2 {
		require.Equal(t, noon, s.All()["first"].At)
		require.Equal(t, now, s.All()["other"].At)
		require.NoError(t, s.Close())
		s = open()
	}
	require.NoError(t, s.Close())
}

// Only the user of the process may read the files.
func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	locked, err := state.Lock(context.Background(), dir, nil)
	require.NoError(t, err)
	defer locked.Unlock()
	s, _ := open(t, state.OS{}, dir)
	require.NoError(t, s.Write(map[string]any{"a": 1}))
	for path, mode := range map[string]os.FileMode{
		dir: 0o700 | os.ModeDir, filepath.Join(dir, "changes"): 0o600, filepath.Join(dir, "lock"): 0o600,
	} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), path)
	}
}

// A second process gets an error that names the first. It can lock the folder when the first has ended in any
// way, even by a kill.
func TestTheFolderBelongsToOneProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if held := os.Getenv("WHIRLPOOL_TEST_LOCK"); held != "" {
		_, err := state.Lock(context.Background(), held, nil)
		require.NoError(t, err)
		fmt.Println("locked")
		select {}
	}
	child := exec.Command(os.Args[0], "-test.run", "TestTheFolderBelongsToOneProcess")
	child.Env = append(os.Environ(), "WHIRLPOOL_TEST_LOCK="+dir)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	defer child.Process.Kill()
	_, err = out.Read(make([]byte, 100))
	require.NoError(t, err)

	ended, end := context.WithCancel(context.Background())
	end()
	var inUse *state.InUseError
	_, err = state.Lock(ended, dir, nil)
	require.ErrorAs(t, err, &inUse)
	require.Contains(t, err.Error(), fmt.Sprintf("%s is in use by process %d on host ", dir, child.Process.Pid))

	waiting := make(chan struct{})
	go func() {
		<-waiting
		child.Process.Kill()
		child.Wait()
	}()
	locked, err := state.Lock(context.Background(), dir, func(e *state.InUseError) { close(waiting) })
	require.NoError(t, err)
	require.NoError(t, locked.Unlock())
}

// The process that has locked the folder can see that another one waits for it.
func TestAnotherProcessWaitsForTheFolder(t *testing.T) {
	dir := t.TempDir()
	first, err := state.Lock(context.Background(), dir, nil)
	require.NoError(t, err)
	require.False(t, first.IsWanted())
	second := make(chan *state.Dir)
	go func() {
		d, err := state.Lock(context.Background(), dir, nil)
		if err != nil {
			t.Error(err)
		}
		second <- d
	}()
	for !first.IsWanted() {
		time.Sleep(time.Millisecond)
	}
	require.NoError(t, first.Unlock())
	d := <-second
	require.False(t, d.IsWanted())
	given, stop := context.WithCancel(context.Background())
	stop()
	_, err = state.Lock(given, dir, nil)
	require.Error(t, err)
	require.False(t, d.IsWanted(), "it waits no more")
	require.NoError(t, d.Unlock())
}

// A process that was killed while it waited does not count as one that waits.
func TestAKilledProcessDoesNotWait(t *testing.T) {
	if dir := os.Getenv("WHIRLPOOL_TEST_WAIT"); dir != "" {
		state.Lock(context.Background(), dir, nil)
		return
	}
	dir := t.TempDir()
	held, err := state.Lock(context.Background(), dir, nil)
	require.NoError(t, err)
	child := exec.Command(os.Args[0], "-test.run", "TestAKilledProcessDoesNotWait")
	child.Env = append(os.Environ(), "WHIRLPOOL_TEST_WAIT="+dir)
	require.NoError(t, child.Start())
	for !held.IsWanted() {
		time.Sleep(time.Millisecond)
	}
	require.NoError(t, child.Process.Kill())
	child.Wait()
	require.False(t, held.IsWanted())
	require.NoError(t, held.Unlock())
}

func TestAFolderThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, path := range []string{file, filepath.Join(file, "below")} {
		_, err := state.Lock(context.Background(), path, nil)
		require.Error(t, err)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(join([]string{line(0, `"whirlpool state, format 1"`), line(1, `{"delete":["a"]}`)})))
	f.Add([]byte("hello\n\n\n00000000 1 {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDisk()
		d.entries["/state/changes"] = &inode{data: data, synced: data}
		s, _, err := state.OpenStore(d, "/state", "changes", clock)
		if err != nil {
			require.ErrorIs(t, err, state.ErrFormat)
			return
		}
		require.NoError(t, s.Write(map[string]any{"a": 1}))
		before := values(s)
		s, damage := open(t, d, "/state")
		require.False(t, damage.Exists())
		require.Equal(t, before, values(s))
	})
}

// A power cut loses no file that WriteFile has written, and leaves no part of one. The disk fails at random moments
// too.
func TestWriteFile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		d, failures := newFailingDisk(r)
		written, unsure := "", []string(nil)
		for i := range rapid.IntRange(1, 8).Draw(t, "writes") {
			*failures = rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "failures")
			text := fmt.Sprint(i, strings.Repeat("x", rapid.IntRange(0, 300).Draw(t, "length")))
			if state.WriteFile(d, "/state/file", []byte(text)) == nil {
				written, unsure = text, nil
			} else {
				unsure = append(unsure, text)
			}
			*failures = 0
			if rapid.Bool().Draw(t, "power cut") {
				d.cut(r)
			}
			got := ""
			if f, err := d.Open("/state/file", os.O_RDONLY, 0); err == nil {
				data, err := io.ReadAll(f)
				require.NoError(t, err)
				got = string(data)
			}
			require.Contains(t, append(unsure, written), got)
		}
	})
}

// After DropRecords, the owner of a store has its values: a write appends only the changes, and the next file that is
// written anew has the values of the owner.
func TestAStoreWithoutRecordsInMemory(t *testing.T) {
	dir := t.TempDir()
	open := func() *state.Store {
		s, damage, err := state.OpenStore(state.OS{}, dir, "ids", time.Now)
		require.NoError(t, err)
		require.False(t, damage.Exists())
		return s
	}
	s, values, recalls := open(), map[string]any{}, 0
	s.DropRecords(func() map[string]any { recalls++; return values })
	long := strings.Repeat("x", 10_000)
	for i := range 100 { // long enough for several new files
		key := fmt.Sprint(i % 10)
		values[key] = fmt.Sprint(i, long)
		require.NoError(t, s.Write(map[string]any{key: values[key]}))
	}
	delete(values, "3")
	require.NoError(t, s.Write(map[string]any{"3": nil}))
	require.Positive(t, recalls)
	require.NoError(t, s.Close())
	again := map[string]any{}
	for key, record := range open().All() {
		var text string
		require.NoError(t, json.Unmarshal(record.Value, &text))
		again[key] = text
	}
	require.Equal(t, values, again)
}
