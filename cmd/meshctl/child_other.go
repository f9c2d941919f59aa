//go:build !linux

package main

import "syscall"

// childAttributes leave Ctrl-C to meshctl, which hands it on once.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
