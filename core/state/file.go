package state

import (
	"cmp"
	"os"
	"path/filepath"
)

// NewExt is the extension of a file while WriteFile writes it.
const NewExt = ".new"

// WriteFile replaces a file (mode 0600) completely or not at all, even at a power cut. When it returns nil, the new
// file is on the disk. After an error the file is the old one or, if only the sync of the folder has failed, perhaps
// the new one.
func WriteFile(fsys FS, path string, data []byte) error {
	f, err := fsys.Open(path+NewExt, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = cmp.Or(err, f.Sync(), f.Close())
	if err == nil {
		err = fsys.Rename(path+NewExt, path)
	}
	if err != nil {
		_ = fsys.Remove(path + NewExt) // if this fails, the next WriteFile replaces it
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}
