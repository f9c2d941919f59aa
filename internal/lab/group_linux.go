package lab

import "syscall"

// ownGroup is how a process is started: in a group of its own, and killed when the thread that started it ends.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
