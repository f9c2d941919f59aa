package lab

import "syscall"

// ownGroup is how a process is started: in a group of its own, and killed when the thread that started it ends. Threads of
// Go's end only with the process, unless a goroutine that is locked to one does.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
