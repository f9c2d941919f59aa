//go:build linux

// Command intruder tries what a process that was taken over would, and prints what came of each attempt as JSON: "" where it
// succeeded, the error's name otherwise. It harms nothing if it is let: every attempt is one that ends at once, or in
// a place of the test's own. Tests run it in the place of our programs, under the restrictions that these are shipped with.
package main

import (
	"encoding/json"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	results := map[string]string{}
	for name, try := range attempts {
		results[name] = result(try())
	}
	json.NewEncoder(os.Stdout).Encode(results)
}

func result(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

var attempts = map[string]func() error{
	"write /usr/local/bin":           func() error { return write("/usr/local/bin") },
	"write /etc":                     func() error { return write("/etc") },
	"write /etc/mesh":                func() error { return write("/etc/mesh") },
	"write /run/mesh":                func() error { return write("/run/mesh") },
	"write /var/lib/mesh":            func() error { return write("/var/lib/mesh") },
	"write /var/lib/mesh/repository": func() error { return write("/var/lib/mesh/repository") },
	"write /var/lib/mesh/sidecar":    func() error { return write("/var/lib/mesh/sidecar") },
	"write /var/lib/mesh/state":      func() error { return write("/var/lib/mesh/state") },
	"write /var/lib/mesh/cache":      func() error { return write("/var/lib/mesh/cache") },
	"write /srv/mesh":                func() error { return write("/srv/mesh") },
	"write /tmp":                     func() error { return write("/tmp") },
	"write /proc/sys":                func() error { return open("/proc/sys/net/ipv4/ip_forward", unix.O_WRONLY) },
	"change /etc/mesh/Corefile":      func() error { return open("/etc/mesh/Corefile", unix.O_WRONLY) },
	"replace /etc/mesh/Corefile":     func() error { return unix.Rename("/etc/mesh/node.crt", "/etc/mesh/Corefile") },
	"read /etc/mesh/node.key":        func() error { return open("/etc/mesh/node.key", unix.O_RDONLY) },
	"read /etc/mesh/Corefile":        func() error { return open("/etc/mesh/Corefile", unix.O_RDONLY) },
	"see other processes":            func() error { return open("/proc/1/status", unix.O_RDONLY) },
	"socket AF_INET":                 func() error { return socket(unix.AF_INET, unix.SOCK_DGRAM) },
	"socket AF_NETLINK":              func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW) },
	"socket AF_PACKET":               func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW) },
	"socket AF_ALG":                  func() error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET) },
	"raw socket":                     func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
	"bind port 53":                   func() error { return bind(53) },
	"bind port 5300":                 func() error { return bind(5300) },
	"delete an address":              deleteAddress,
	"be root":                        func() error { return call(unix.SYS_SETUID, 0) },
	"unshare a namespace":            func() error { return call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER) },
	"clone into a namespace":         func() error { return call(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_NEWNS|unix.CLONE_FS) }, // EINVAL by itself
	"mount":                          func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
	"chroot":                         func() error { return unix.Chroot("/tmp") },
	"load a module":                  func() error { return call(unix.SYS_INIT_MODULE, 0, 0, 0) },
	"load BPF":                       func() error { return call(unix.SYS_BPF, 1000, 0, 0) },
	"trace":                          func() error { return call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1) },
	"read the kernel's log":          func() error { return call(unix.SYS_SYSLOG, 10) },
	"reboot":                         func() error { return call(unix.SYS_REBOOT, 0) }, // EINVAL by itself: no magic
	"use a key ring":                 func() error { return call(unix.SYS_KEYCTL, 0, ^uintptr(2), 0) },
	"set a clock":                    func() error { t := unix.Timespec{}; return unix.ClockSettime(unix.CLOCK_MONOTONIC, &t) }, // EINVAL by itself
	"read the clock's error":         func() error { _, err := unix.Adjtimex(&unix.Timex{}); return err },
	"be of another personality":      func() error { return call(unix.SYS_PERSONALITY, 0x0008) },
	"be of real time": func() error {
		p := int32(1)
		return call(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&p)))
	},
	"step back": func() error { return unix.Setpriority(unix.PRIO_PROCESS, 0, 19) },
	"memory to write and execute": func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	},
	"written memory made executable":   makeExecutable,
	"a file that runs as its owner":    setuidFile,
	"a directory that gives its group": func() error { return errors.Join(unix.Mkdir("/tmp/group", 0o755), unix.Chmod("/tmp/group", 0o2755)) },
}

// write makes a file in a directory, and removes it.
func write(dir string) error {
	path := dir + "/.intruder"
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(unix.Close(fd), unix.Unlink(path))
}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func socket(family, kind int, protocol ...int) error {
	fd, err := unix.Socket(family, kind, append(protocol, 0)[0])
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func bind(port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 77}})
}

// deleteAddress asks for the end of an address that nobody has: EADDRNOTAVAIL from who may ask.
func deleteAddress() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var request struct {
		unix.NlMsghdr
		unix.IfAddrmsg
		unix.RtAttr
		local [4]byte
	}
	request.NlMsghdr = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(request)), Type: unix.RTM_DELADDR, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK}
	request.IfAddrmsg = unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: 32, Index: 1}
	request.RtAttr = unix.RtAttr{Len: 8, Type: unix.IFA_LOCAL}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&request)), unsafe.Sizeof(request))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	if _, _, err := unix.Recvfrom(fd, reply, 0); err != nil {
		return err
	}
	if code := *(*int32)(unsafe.Pointer(&reply[unix.NLMSG_HDRLEN])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

func makeExecutable() error {
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(b)
	return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
}

func setuidFile() error {
	if err := os.WriteFile("/tmp/setuid", nil, 0o600); err != nil {
		return err
	}
	return unix.Chmod("/tmp/setuid", 0o4755)
}

func call(number uintptr, args ...uintptr) error {
	var a [3]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall(number, a[0], a[1], a[2]); errno != 0 {
		return errno
	}
	return nil
}
