package meshsync

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// largePage is the octets of a large page of memory where this matters: x86-64 and arm64 with pages of 4 KiB.
const largePage = 2 << 20

// inLargePages asks the system to move memory, as far as it can, into large pages: a lookup then needs not find out where a
// small one is. An error says that the system cannot (EINVAL, before Linux 6.1) or has none left, and leaves the rest as it is.
func inLargePages(b []byte) error {
	from := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (largePage - 1))
	if from >= len(b)-largePage {
		return nil
	}
	return unix.Madvise(b[from:from+(len(b)-from)&^(largePage-1)], unix.MADV_COLLAPSE)
}
