// Package purity has no code, only a test: that the deciders decide and do nothing else, and that the parts of the
// project keep to their sides. ARCHITECTURE.md says why; the test's tables say it for each rule.
package purity
