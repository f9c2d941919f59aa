// Package model holds a model of the protocol of internal/mesh, switchover.pml, for the model checker Spin. Its test searches
// all states of it within bounds, and sees to it that the search finds something as soon as any rule is broken. It is the test's only.
//
// FULL=1 go test -timeout 2h ./internal/mesh/model searches larger bounds.
package model
