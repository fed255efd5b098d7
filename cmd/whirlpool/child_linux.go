package main

import (
	"os/exec"
	"syscall"
)

// isolate puts a child into its own process group, so that the child does not receive signals to the
// gateway's group. It also makes Linux end the child when the gateway ends.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// setNice lowers the priority of all threads of this process, if it is alone in its process group.
func setNice(nice int) {
	if syscall.Getpgrp() == syscall.Getpid() {
		syscall.Setpriority(syscall.PRIO_PGRP, 0, nice)
	}
}
