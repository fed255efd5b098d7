package config

import (
	"fmt"
	"io"
	"os"
)

// The maximum sizes of files in bytes.
const (
	maxConfig = 16 << 20 // maximum of the configuration file
	maxList   = 64 << 20 // maximum of a proxy list
	maxPEM    = 4 << 20  // maximum of a file with certificates or a key
	maxSecret = 64 << 10 // maximum of a file with a password
)

// ReadList reads a proxy list of at most 64 MiB.
func ReadList(name string, in io.Reader) ([]byte, error) { return readAtMost(name, in, 0, maxList) }

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readAtMost(path, f, info.Size(), limit)
}

// readAtMost reads at most limit bytes. The parameter size is the size of the file in bytes; 0 if it is unknown.
func readAtMost(name string, in io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, errTooLong(name, size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, errLongerThan(name, limit)
	}
	return data, err
}

func errTooLong(name string, size, limit int64) error {
	return fmt.Errorf("%s has %d bytes; at most %d are allowed; is it the right file?", name, size, limit)
}

func errLongerThan(name string, limit int64) error {
	return fmt.Errorf("%s has more than %d bytes, which are allowed at most; is it the right file?", name, limit)
}
