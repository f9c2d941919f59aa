//go:build !linux

package meshsync

// stepBack does nothing: elsewhere threads have no priority of their own, or another way to set it.
func stepBack() {}
