package memory

import (
	"bytes"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// RuntimeLimit returns the memory limit in bytes that the caller should set for the Go runtime: nine tenths of cgroup,
// the limit of the control group. hasCgroup is false if the control group has no limit (CgroupLimit). The parameter
// environment is the value of GOMEMLIMIT. The runtime applies GOMEMLIMIT by itself. The result ok is false if
// environment is not "", or if the control group has no limit.
func RuntimeLimit(environment string, cgroup int64, hasCgroup bool) (limit int64, ok bool) {
	if environment != "" || !hasCgroup {
		return 0, false
	}
	return cgroup / 10 * 9, true
}

// CgroupLimit returns the memory limit of this process's control group in bytes: the smallest limit of the group and
// its parents. The result ok is false if there is no limit. The parameter root is the root of the file system
// (os.DirFS("/")). CgroupLimit reads memory.max, the file of control groups version 2. In a container with its own
// mount of control groups version 1, it also reads memory.limit_in_bytes.
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

// noLimit is the smallest number that stands for no limit. If a control group of version 1 has no limit, its file has
// a number near 2^63.
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
