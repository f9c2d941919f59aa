//go:build !linux

package meshsync

import (
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

func smallDisk(t *testing.T) string {
	t.Helper()
	testenv.Missing(t, "a tmpfs needs Linux")
	return ""
}

func remount(*testing.T, string, string) {}

func readOnly(*testing.T, string) func() { return func() {} }
