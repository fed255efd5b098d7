package memory

import (
	"bytes"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// RuntimeLimit returns the memory limit in bytes that the caller should set for the Go runtime: nine tenths of the
// limit of the control group (CgroupLimit). It returns false if the control group has no limit. It also returns false
// if the environment variable GOMEMLIMIT is set, because the runtime applies that limit by itself. The argument
// environment is the value of GOMEMLIMIT.
func RuntimeLimit(environment string, cgroup int64, hasCgroup bool) (limit int64, ok bool) {
	if environment != "" || !hasCgroup {
		return 0, false
	}
	return cgroup / 10 * 9, true
}

// CgroupLimit returns the smallest memory limit in bytes of this process's control group and its parents; ok is false
// if there is none. The parameter root is the root of the file system (os.DirFS("/")). CgroupLimit reads the files
// memory.max of control groups version 2. It also reads memory.limit_in_bytes of version 1, but only in the root
// group, which in a container is usually the container's own group.
func CgroupLimit(root fs.FS) (bytes int64, ok bool) {
	smallest := int64(math.MaxInt64)
	read := func(file string) {
		text, err := fs.ReadFile(root, file)
		if err != nil {
			return
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // fails for "max": no limit
		if err == nil && n > 0 {
			smallest = min(smallest, n)
		}
	}
	for dir := cgroupDir(root); ; dir = path.Dir(dir) {
		read(path.Join("sys/fs/cgroup", dir, "memory.max"))
		if dir == "/" || dir == "." {
			break
		}
	}
	read("sys/fs/cgroup/memory/memory.limit_in_bytes")
	return smallest, smallest < noLimit
}

// noLimit is the smallest number that stands for no limit; in version 1 this is a number near 2^63.
const noLimit = 1 << 60

// cgroupDir returns the path of this process's control group (version 2) within the mounted control groups; "/" if it
// is unknown.
func cgroupDir(root fs.FS) string {
	text, _ := fs.ReadFile(root, "proc/self/cgroup") // if the file cannot be read, the group is "/"
	for line := range bytes.Lines(text) {
		if dir, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "0::"); ok && strings.HasPrefix(dir, "/") {
			return path.Clean(dir)
		}
	}
	return "/"
}
