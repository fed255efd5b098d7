package main

import (
	"os/exec"
	"syscall"
)

// isolateChild makes cmd start its child process in a new process group, so that signals to the process group of the
// gateway do not reach the child. It also makes Linux end the child when the gateway ends.
func isolateChild(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// setNice sets the nice value of all threads of this process. It does so only if this process leads its process group
// (isolateChild), because the call applies to the whole group.
func setNice(nice int) {
	if syscall.Getpgrp() == syscall.Getpid() {
		syscall.Setpriority(syscall.PRIO_PGRP, 0, nice)
	}
}
