//go:build !linux

package sharedunicast

import "errors"

// setOptions does nothing: the options are Linux's. Good enough to develop on.
func setOptions(int, string, bool) error { return nil }

func reusePortOption(int) error { return errors.New("multisocket with sharedunicast needs Linux") }

func descriptors() int { return 256 }
