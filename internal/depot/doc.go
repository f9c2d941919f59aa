// Package depot stores a repository on disk and moves it: durable writes, verified streaming reads of zones, downloads
// that resume, and mirroring over HTTPS. It decides nothing about trust; internal/release does, and depot installs only
// what release.Verify accepted (SYNC-C, SYNC-D, DELIV-3).
//
// The layout is that of package release. A reader may look at any time: what is named by a number or a digest is
// written before what names it, and metadata/timestamp.json is replaced last.
//
// A directory may hold anything, put there by anyone who can write to it: reads never follow a link, never leave the
// directory, never wait for a pipe, and never take more than they were told to expect.
//
// It may import internal/release, the standard library and a zstd codec. plugin/meshsync reads with it,
// sidecar/mirror and cmd/meshctl write with it.
package depot
