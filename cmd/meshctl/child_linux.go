package main

import "syscall"

// childAttributes make coredns end when meshctl is killed, and leave Ctrl-C to meshctl, which hands it on once.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
