package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
)

// running returns a gateway that does not listen yet, and a function that changes its configuration file.
func running(t *testing.T, file string) (g *gateway, log *bytes.Buffer, change func(string)) {
	path := filepath.Join(t.TempDir(), "koanf.toml")
	change = func(text string) {
		require.NoError(t, os.WriteFile(path, []byte(text+"\n[state]\ndir = \"\"\n"), 0o600))
	}
	change(file)
	src := config.Source{File: path}
	cfg, err := config.Load(src)
	require.NoError(t, err)
	log = &bytes.Buffer{}
	g, err = wire(src, cfg, slog.New(slog.NewTextHandler(log, nil)), &slog.LevelVar{}, io.Discard, "")
	require.NoError(t, err)
	t.Cleanup(g.plugins.Close)
	return g, log, change
}

// The listening address decides whether the API needs keys, and a reload does not change that address. A file
// that restricts the address and removes the keys must therefore be refused. Otherwise every client could use
// the API until the next start.
func TestAReloadNeverOpensTheAPI(t *testing.T) {
	const key = "[[api.keys]]\nname = \"ops\"\nkey = \"0123456789abcdef\"\nrole = \"admin\"\n"
	g, _, change := running(t, "[api]\nlisten = \"0.0.0.0:8889\"\n"+key)

	change("[api]\nlisten = \"127.0.0.1:8889\"\n")
	status := g.reload()
	require.False(t, status.OK)
	faults := status.Faults.([]config.Fault)
	require.Len(t, faults, 1)
	assert.Equal(t, "api.keys", faults[0].Key)
	assert.Len(t, g.cfg.API.Keys, 1, "the running configuration stays")

	change("[api]\nlisten = \"127.0.0.1:8889\"\n" + key)
	assert.True(t, g.reload().OK, "with a key it may")
	change("[api]\nlisten = \"127.0.0.1:8889\"\n")
	assert.False(t, g.reload().OK, "it still listens where it began")
}

func TestAReloadNamesSettingsThatNeedARestart(t *testing.T) {
	g, log, change := running(t, "[log]\nformat = \"text\"\n")
	change("[log]\nformat = \"json\"\n[gateway]\nlisten = \"127.0.0.1:1\"\n")
	require.Equal(t, []string{"gateway.listen", "log.format"}, g.reload().Restart)
	assert.Contains(t, log.String(), `keys="gateway.listen, log.format"`)
	change("[log]\nformat = 1\n")
	status := g.reload()
	require.False(t, status.OK)
	require.Equal(t, []string{"gateway.listen", "log.format"}, status.Restart, "they still wait")
	log.Reset()
	change("[log]\nformat = \"text\"\n")
	status = g.reload()
	require.True(t, status.OK)
	require.Empty(t, status.Restart)
	assert.NotContains(t, log.String(), "next start", "as it began")
}

// The default koanf.toml is optional. But if it has existed once and is missing at a reload, the pool stays
// as it is.
func TestAMissingFileChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "koanf.toml")
	src := config.Source{File: path, Optional: true, Overrides: map[string]any{"state.dir": ""}}
	cfg, err := config.Load(src)
	require.NoError(t, err)
	g, err := wire(src, cfg, slog.New(slog.DiscardHandler), &slog.LevelVar{}, io.Discard, "")
	require.NoError(t, err)
	t.Cleanup(g.plugins.Close)
	require.True(t, g.reload().OK, "it is not there yet")

	require.NoError(t, os.WriteFile(path, []byte("[[proxies]]\nurl = \"http://127.0.0.1:1\"\n"), 0o600))
	require.True(t, g.reload().OK)
	require.NoError(t, os.Remove(path))
	require.False(t, g.reload().OK)
	assert.Equal(t, 1, g.cfg.ProxyCount())
	assert.Len(t, g.engine.Pool().Snapshot().All, 1)
}

// A reload reports every name that does not exist, including names of scorers and backoffs, which
// the check of the file alone cannot find.
func TestEveryNameThatIsMissing(t *testing.T) {
	g, _, change := running(t, "")
	change("[selection]\nfirst = \"nope\"\nretry = \"linear\"\n[retry]\nbackoff_strategy = \"nope\"\n")
	var keys []string
	for _, f := range g.reload().Faults.([]config.Fault) {
		keys = append(keys, fmt.Sprint(f.Line, " ", f.Key))
	}
	require.Equal(t, []string{"2 selection.first", "3 selection.retry", "5 retry.backoff_strategy"}, keys)
}

// If a file has become empty, the reload changes nothing: its writer may not have finished, or may have
// failed. A file with only a comment is accepted.
func TestAFileThatHasBecomeEmpty(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list.txt")
	write := func(file, text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(list, "")
	g, _, _ := running(t, "[gateway]\nusers = [{name = \"a\", password = \"b\"}]\n[pool]\nfiles = [\""+list+"\"]\n")
	require.True(t, g.reload().OK, "as it began")
	write(list, "a:1\n")
	require.True(t, g.reload().OK)
	write(list, "\n")
	require.False(t, g.reload().OK)
	require.False(t, g.reload().OK, "still")
	require.Equal(t, 1, g.cfg.ProxyCount())
	write(list, "# none\n")
	require.True(t, g.reload().OK)
	require.Zero(t, g.cfg.ProxyCount())
	write(g.source.File, "")
	status := g.reload()
	require.False(t, status.OK)
	require.Contains(t, status.Faults.([]config.Fault)[0].Msg, "has become empty")
	require.Len(t, g.cfg.Gateway.Users, 1)
}

// A pool that becomes empty is accepted, with a warning.
func TestAnEmptiedPoolIsReported(t *testing.T) {
	g, log, change := running(t, "[[proxies]]\nurl = \"http://127.0.0.1:1\"\n")
	require.True(t, g.reload().OK)
	require.Contains(t, log.String(), "level=INFO msg=\"configuration reloaded\" proxies=1")
	change("")
	require.True(t, g.reload().OK)
	require.Contains(t, log.String(), "level=WARN msg=\"configuration reloaded\" proxies=0")
}

// On a file system without notifications, regular checks detect changes.
func TestChangesWithoutANotification(t *testing.T) {
	g, _, change := running(t, "[gateway]\ndrain_grace = \"7s\"\n")
	stop := watchFiles(g, nil, g.fingerprint(nil))
	defer stop()
	change("[gateway]\ndrain_grace = \"19s\"\n")
	require.Eventually(t, func() bool { return g.drainGrace() == 19*time.Second }, time.Minute, 10*time.Millisecond)
}

// A change between the start of loading and the start of watching is detected.
func TestChangesWhileTheGatewayStarts(t *testing.T) {
	for _, early := range []bool{true, false} {
		began := time.Now().Add(-10 * time.Millisecond) // file systems round times down
		g, _, change := running(t, "[gateway]\ndrain_grace = \"7s\"\n")
		if early {
			change("[gateway]\ndrain_grace = \"19s\"\n")
		} else {
			began = time.Now().Add(time.Minute)
		}
		seen := g.fingerprintSince(began)
		if !early {
			change("[gateway]\ndrain_grace = \"19s\"\n")
		}
		stop := watchFiles(g, nil, seen)
		require.Eventually(t, func() bool { return g.drainGrace() == 19*time.Second }, time.Minute, 10*time.Millisecond)
		stop()
	}
}

// A list that is written for a long time is read from time to time, and completely at the end.
func TestAListThatIsWrittenForAWhile(t *testing.T) {
	list, err := os.Create(filepath.Join(t.TempDir(), "list.txt"))
	require.NoError(t, err)
	defer list.Close()
	proxies := 0
	add := func() {
		proxies++
		fmt.Fprintf(list, "proxy%d:1\n", proxies)
	}
	for range 2000 { // many, so that the read takes longer than the write
		add()
	}
	g, log, _ := running(t, "[pool]\nfiles = [\""+list.Name()+"\"]\n")
	w, err := fsnotify.NewWatcher()
	require.NoError(t, err)
	stop := watchFiles(g, w, g.fingerprint(nil))
	begun := time.Now()
	for time.Since(begun) < time.Second {
		add()
		time.Sleep(time.Millisecond)
	}
	read := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.cfg.ProxyCount() == proxies
	}
	require.Eventually(t, read, time.Minute, 10*time.Millisecond)
	took := time.Since(begun)
	stop()
	require.Less(t, strings.Count(log.String(), "configuration reloaded"), int(took/settleTime))
}

// The target of a symbolic link is watched in its own folder.
func TestTheTargetOfALinkIsWatched(t *testing.T) {
	there, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	file := filepath.Join(there, "mine.toml")
	require.NoError(t, os.WriteFile(file, []byte("[state]\ndir = \"\"\n"), 0o600))
	link := filepath.Join(t.TempDir(), "koanf.toml")
	require.NoError(t, os.Symlink(file, link))
	src := config.Source{File: link}
	cfg, err := config.Load(src)
	require.NoError(t, err)
	g, err := wire(src, cfg, slog.New(slog.DiscardHandler), &slog.LevelVar{}, io.Discard, "")
	require.NoError(t, err)
	t.Cleanup(g.plugins.Close)
	w, err := fsnotify.NewWatcher()
	require.NoError(t, err)
	defer w.Close()
	g.fingerprint(w)
	assert.ElementsMatch(t, []string{filepath.Dir(link), there}, w.WatchList())
}

func TestTheLogInJSONHasSeconds(t *testing.T) {
	var out bytes.Buffer
	log, _, _, done := openLog(config.Log{Level: "info", Format: "json"}, &out)
	log.Info("retry", slog.Duration("delay", 1500*time.Millisecond))
	require.NoError(t, done())
	assert.Contains(t, out.String(), `"delay":1.5`)
}

// If the new access log cannot be opened, the fault names the key, and the previous access log stays in use.
func TestAReloadOfTheAccessLog(t *testing.T) {
	g, _, change := running(t, "[log]\naccess = \"errors\"\naccess_file = \"a.log\"\n")
	require.FileExists(t, filepath.Join(filepath.Dir(g.source.File), "a.log"))
	change("[log]\naccess = \"all\"\naccess_file = \"missing/a.log\"\n")
	faults := g.reload().Faults.([]config.Fault)
	require.Len(t, faults, 1)
	assert.Equal(t, "log.access_file", faults[0].Key)
	assert.Equal(t, 3, faults[0].Line)
	assert.NotNil(t, g.accessLog.file)
	assert.True(t, g.accessLog.IsOn())
	change("")
	require.True(t, g.reload().OK)
	assert.Nil(t, g.accessLog.file)
	assert.False(t, g.accessLog.IsOn())
}
