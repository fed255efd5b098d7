package doctor

import (
	"context"
	"net"
	"os"
	"time"
)

// ThisMachine returns the Machine on which this process runs.
func ThisMachine() *Machine {
	return &Machine{
		Files: os.DirFS("/"), Stat: os.Stat, Now: time.Now, Synced: clockSynced,
		Create: func(dir string) error {
			f, err := os.CreateTemp(dir, ".whirlpool-doctor-*")
			if err != nil {
				return err
			}
			f.Close()
			return os.Remove(f.Name())
		},
		Free: freeSpace, Limit: openFileLimit, NoModes: !fileModes,
		Listen: func(address string) error {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			return l.Close()
		},
		Lookup: func(ctx context.Context, host string) error {
			_, err := net.DefaultResolver.LookupHost(ctx, host)
			return err
		},
	}
}
