package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/cmd/whirlpool/config"
)

// If the file of ids cannot be used, the gateway starts without it. If the recorded changes in a configured folder
// cannot be used, the gateway does not start. If those in the default folder cannot be used, the gateway starts
// without the folder, and logs a warning.
func TestFilesThatCannotBeUsed(t *testing.T) {
	for name, put := range map[string]func(*testing.T, string){
		"a folder": func(t *testing.T, path string) { require.NoError(t, os.Mkdir(path, 0o700)) },
		"another format": func(t *testing.T, path string) {
			require.NoError(t, os.WriteFile(path, []byte("0a7c2437 0 \"whirlpool state, format 2\"\n"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var out bytes.Buffer
			log := slog.New(slog.NewTextHandler(&out, nil))
			put(t, filepath.Join(dir, idsFile))
			cfg, err := config.Load(config.Source{Optional: true, File: filepath.Join(dir, "koanf.toml"),
				Overrides: map[string]any{"state.dir": dir}})
			require.NoError(t, err)
			k, err := openState(cfg, time.Second, log)
			require.NoError(t, err)
			require.NotNil(t, k.store)
			require.Nil(t, k.ids)
			require.Contains(t, out.String(), filepath.Join(dir, idsFile))
			k.close()

			require.NoError(t, os.Remove(filepath.Join(dir, changesFile)))
			put(t, filepath.Join(dir, changesFile))
			_, err = openState(cfg, time.Second, log)
			require.ErrorContains(t, err, filepath.Join(dir, changesFile))
			cfg.State.Implied = true
			out.Reset()
			k, err = openState(cfg, time.Second, log)
			require.NoError(t, err)
			require.Empty(t, k.path())
			require.Contains(t, out.String(), "changes by the API that it has are not in force")
		})
	}
}
