//go:build !linux

package meshsync

// inLargePages does nothing: elsewhere the system does what it can unasked.
func inLargePages([]byte) error { return nil }
