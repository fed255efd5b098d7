package main

import (
	"os/exec"
	"syscall"
)

// childNice is the priority of check children: a tenth of the gateway's share of a busy processor.
const childNice = 10

// isolate gives a child a process group of its own, so that a signal to the gateway's group does not reach it, and
// ends it with the gateway.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// lowerPriority lowers the priority of all threads of this process, which is alone in its process group.
func lowerPriority() {
	if syscall.Getpgrp() == syscall.Getpid() {
		syscall.Setpriority(syscall.PRIO_PGRP, 0, childNice)
	}
}
