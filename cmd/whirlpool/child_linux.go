package main

import (
	"os/exec"
	"syscall"
)

// isolate gives a child a process group of its own, so that a signal to the gateway's group does not reach it, and
// ends it with the gateway.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// setNice lowers the priority of all threads of this process, if it is alone in its process group.
func setNice(nice int) {
	if syscall.Getpgrp() == syscall.Getpid() {
		syscall.Setpriority(syscall.PRIO_PGRP, 0, nice)
	}
}
