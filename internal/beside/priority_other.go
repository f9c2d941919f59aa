//go:build !linux

package beside

// StepBack does nothing: elsewhere threads have no priority of their own, or another way to set it.
func StepBack() {}
