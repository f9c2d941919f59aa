// Package tufjs has a TUF client that shares no code with ours, in another language, verify what meshctl publishes.
package tufjs
