package memory

import (
	"bytes"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// CgroupLimit returns the memory limit of this process's control group in bytes: the smallest limit of the
// group and its parents. ok is false if there is no limit. root is the root of the file system
// (os.DirFS("/")). CgroupLimit reads memory.max, the file of control groups version 2. In a container with
// its own mount of version 1, it reads memory.limit_in_bytes.
func CgroupLimit(root fs.FS) (bytes int64, ok bool) {
	least := int64(math.MaxInt64)
	read := func(file string) {
		text, err := fs.ReadFile(root, file)
		if err != nil {
			return
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" stands for no limit
		if err == nil && n > 0 {
			least = min(least, n)
		}
	}
	for dir := cgroupDir(root); ; dir = path.Dir(dir) {
		read(path.Join("sys/fs/cgroup", dir, "memory.max"))
		if dir == "/" || dir == "." {
			break
		}
	}
	read("sys/fs/cgroup/memory/memory.limit_in_bytes")
	return least, least < noLimit
}

// noLimit is the smallest number that stands for no limit. The file of a group of version 1 without a
// limit has a number near 2^63.
const noLimit = 1 << 60

// cgroupDir returns the path of this process's control group (version 2) below its mount; "/" if it is unknown.
func cgroupDir(root fs.FS) string {
	text, _ := fs.ReadFile(root, "proc/self/cgroup") // if the file cannot be read, the group is assumed to be the root
	for line := range bytes.Lines(text) {
		if dir, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "0::"); ok && strings.HasPrefix(dir, "/") {
			return path.Clean(dir)
		}
	}
	return "/"
}
