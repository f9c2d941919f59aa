package bucket

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Open opens an object; it implements fs.FS. A blob is streamed, and never changes under its reader; all else is read
// whole at once.
func (b *Bucket) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if strings.HasPrefix(name, "blobs/") {
		return b.stream(name)
	}
	data, info, err := b.get(name, release.MaxBytes(name))
	if err != nil {
		return nil, err
	}
	return &file{bytes.NewReader(data), fileInfo{path.Base(name), info}, func() error { return nil }}, nil
}

// stream opens an object that is read on demand, from wherever its reader seeks to.
func (b *Bucket) stream(name string) (fs.File, error) {
	ctx, cancel := context.WithTimeout(b.ctx, serveTimeout)
	o, err := b.s3.Client.GetObject(ctx, b.bucket, b.key(name), minio.GetObjectOptions{})
	if err == nil {
		var info minio.ObjectInfo
		if info, err = o.Stat(); err == nil {
			return &file{o, fileInfo{path.Base(name), info}, func() error { defer cancel(); return o.Close() }}, nil
		}
		o.Close()
	}
	cancel()
	return nil, b.failed("get", name, err)
}

// file is an object that was opened.
type file struct {
	io.ReadSeeker
	info  fileInfo
	close func() error
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return f.close() }

type fileInfo struct {
	name string
	o    minio.ObjectInfo
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.o.Size }
func (i fileInfo) Mode() fs.FileMode  { return 0o444 }
func (i fileInfo) ModTime() time.Time { return i.o.LastModified }
func (i fileInfo) IsDir() bool        { return false }
func (i fileInfo) Sys() any           { return nil }
