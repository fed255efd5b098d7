package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

	"github.com/whirlpool-proxy/whirlpool/core/strict"
)

// clientFile is the usual path of the client file, for messages. The real path is whirlpool/client.toml in
// os.UserConfigDir.
const clientFile = "~/.config/whirlpool/client.toml"

// clientSettings are the settings in the client file.
type clientSettings struct {
	URL     string `koanf:"url"`
	Key     string `koanf:"key"`
	KeyFile string `koanf:"key_file"` // used if Key is ""; the path is relative to the folder of the client file
}

// readClientFile reads the client file, which need not exist. If it has a key, other users must not be able to read it.
func readClientFile() (s clientSettings, err error) {
	folder, err := os.UserConfigDir()
	if err != nil {
		return s, nil // there is no file: for example, a system service has no home folder
	}
	path := filepath.Join(folder, "whirlpool", "client.toml")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	tree := map[string]any{}
	if err := toml.Unmarshal(text, &tree); err != nil {
		return s, fmt.Errorf("%s is not valid TOML", path) // err is left out, because it may quote the key
	}
	strict.TOML.Decode("", tree, &s, func(e *strict.FieldError) bool {
		err = fmt.Errorf("%s: %w", path, e)
		return false
	})
	if err != nil {
		return s, err
	}
	if s.Key != "" && s.KeyFile != "" {
		return s, fmt.Errorf("%s: key_file cannot be set together with key; give one of them", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return s, err
	}
	if s.Key != "" && info.Mode().Perm()&0o077 != 0 {
		return s, fmt.Errorf("%s has a key and can be read by other users; chmod 600 it", path)
	}
	if s.KeyFile != "" && !filepath.IsAbs(s.KeyFile) {
		s.KeyFile = filepath.Join(filepath.Dir(path), s.KeyFile)
	}
	return s, nil
}
