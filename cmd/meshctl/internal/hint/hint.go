// Package hint has errors that say what an operator can do about them. It imports nothing of the project. The packages
// beside it make them, and cmd/meshctl prints the hint below the error.
package hint

import "fmt"

// Error is an error with what the operator can do about it.
type Error struct {
	Err  error
	Hint string
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the error without its hint.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error as fmt.Errorf does, with a hint.
func Errorf(hint, format string, args ...any) error {
	return &Error{fmt.Errorf(format, args...), hint}
}
