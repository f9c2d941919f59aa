// Package bucket is a depot.Store in an S3 bucket, so that any number of distribution hosts publish there by turns, and
// nodes are fed by the bucket itself, by a CDN before it, or by meshctl serve.
//
// It counts on two things that S3 has and some of its imitations lack: a read sees the last write, and a conditional PUT
// (If-Match, If-None-Match: *) has one winner. Prove tries the second, before anything depends on it.
//
// It is the only package that imports an S3 client. cmd/meshctl is its only caller: nodes need none.
package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Bucket is a part of a bucket: the objects whose keys begin with a prefix.
type Bucket struct {
	ctx       context.Context // of every request: what is opened for one task ends with it
	s3        *minio.Core
	transport *http.Transport
	bucket    string
	prefix    string // empty, or ends in a slash
}

var _ depot.Store = (*Bucket)(nil)

// Below is the part of b in a directory of its own.
func (b *Bucket) Below(dir string) *Bucket {
	below := *b
	below.prefix += dir + "/"
	return &below
}

// String is where it lies, without what only the client needs to know.
func (b *Bucket) String() string { return "s3://" + b.bucket + "/" + b.prefix }

// Close gives the connections back.
func (b *Bucket) Close() error { b.transport.CloseIdleConnections(); return nil }

const (
	// requestTimeout bounds a request with all its repetitions, but for the transfer of what is large.
	requestTimeout = 30 * time.Second
	// slowest is the least number of bytes a second at which a transfer is not given up.
	slowest = 64 << 10
	// grace is how long a blob or manifest that nobody names is kept.
	grace = 24 * time.Hour
	// serveTimeout bounds how long a reader may take over one blob.
	serveTimeout = time.Hour
)

// within is the context of a request that moves size bytes.
func within(ctx context.Context, size int64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTimeout+time.Duration(size/slowest)*time.Second)
}

func (b *Bucket) key(name string) string { return b.prefix + name }

// failed is what to say of a request that failed.
func (b *Bucket) failed(op, name string, err error) error {
	switch response := minio.ToErrorResponse(err); {
	case response.StatusCode == http.StatusNotFound && response.Code != minio.NoSuchBucket:
		err = fs.ErrNotExist
	case response.StatusCode == http.StatusPreconditionFailed, response.StatusCode == http.StatusConflict:
		err = depot.ErrChanged
	case response.Code != "":
		err = fmt.Errorf("%s: %w", response.Code, err)
	}
	return &fs.PathError{Op: op, Path: "s3://" + b.bucket + "/" + b.key(name), Err: err}
}

// Read implements depot.Store.
func (b *Bucket) Read(name string, max int64) ([]byte, depot.Tag, error) {
	data, info, err := b.get(name, max)
	return data, depot.Tag(info.ETag), err
}

func (b *Bucket) get(name string, max int64) ([]byte, minio.ObjectInfo, error) {
	ctx, cancel := within(b.ctx, max)
	defer cancel()
	body, info, _, err := b.s3.GetObject(ctx, b.bucket, b.key(name), minio.GetObjectOptions{})
	if err != nil {
		return nil, info, b.failed("get", name, err)
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, max+1))
	if err != nil {
		return nil, info, b.failed("get", name, err)
	}
	if int64(len(data)) > max {
		return nil, info, b.failed("get", name, errTooLong)
	}
	return data, info, nil
}

var errTooLong = errors.New("longer than it may be")

// Tag implements depot.Store.
func (b *Bucket) Tag(name string) (depot.Tag, error) {
	info, err := b.stat(name)
	return depot.Tag(info.ETag), err
}

func (b *Bucket) stat(name string) (minio.ObjectInfo, error) {
	ctx, cancel := within(b.ctx, 0)
	defer cancel()
	info, err := b.s3.StatObject(ctx, b.bucket, b.key(name), minio.StatObjectOptions{})
	if err != nil {
		return info, b.failed("head", name, err)
	}
	return info, nil
}

// Create implements depot.Store. What is there already and about to be old enough to be removed is made young.
func (b *Bucket) Create(name string, data []byte) error {
	absent := minio.PutObjectOptions{}
	absent.SetMatchETagExcept("*")
	_, err := b.put(b.ctx, name, data, absent)
	if err == nil {
		return nil
	}
	there, info, read := b.get(name, int64(len(data)))
	f := release.File{Name: name, Data: data}
	if other := read == nil && !bytes.Equal(there, data) || errors.Is(read, errTooLong); other && !f.IsNamedByContent() {
		return &fs.PathError{Op: "create", Path: b.String() + name, Err: depot.ErrExists}
	}
	if read != nil && !errors.Is(read, errTooLong) {
		return err
	}
	if read == nil && bytes.Equal(there, data) && young(info.LastModified) {
		return nil
	}
	_, err = b.Swap(b.ctx, name, data, depot.Tag(info.ETag))
	return err
}

// createsAtOnce is how many objects CreateAll puts at a time.
const createsAtOnce = 16

// CreateAll implements depot.Store.
func (b *Bucket) CreateAll(files []release.File) error {
	all, ctx := errgroup.WithContext(b.ctx)
	all.SetLimit(createsAtOnce)
	for _, f := range files {
		all.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return b.Create(f.Name, f.Data)
		})
	}
	return all.Wait()
}

// young reports whether something is far from being removed.
func young(modified time.Time) bool { return time.Since(modified) < grace/2 }

// Swap implements depot.Store. A request may be carried out although its answer is lost, and is repeated then; so what
// is there in the end tells whether it was.
func (b *Bucket) Swap(ctx context.Context, name string, data []byte, was depot.Tag) (depot.Tag, error) {
	match := minio.PutObjectOptions{}
	match.SetMatchETag(string(was))
	tag, err := b.put(ctx, name, data, match)
	if err == nil {
		return tag, nil
	}
	if there, tag, read := b.Read(name, int64(len(data))); read == nil && bytes.Equal(there, data) {
		return tag, nil
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", b.failed("put", name, depot.ErrChanged)
	case ctx.Err() != nil:
		return "", b.failed("put", name, context.Cause(ctx))
	}
	return "", err
}

// put sends one request, under a signature that covers the data.
func (b *Bucket) put(ctx context.Context, name string, data []byte, if_ minio.PutObjectOptions) (depot.Tag, error) {
	ctx, cancel := within(ctx, int64(len(data)))
	defer cancel()
	if_.ContentType = depot.ContentType(name)
	if name == release.TimestampName {
		if_.CacheControl = "no-cache"
	}
	sum := sha256.Sum256(data)
	info, err := b.s3.PutObject(ctx, b.bucket, b.key(name), bytes.NewReader(data), int64(len(data)), "", hex.EncodeToString(sum[:]), if_)
	if err != nil {
		return "", b.failed("put", name, err)
	}
	return depot.Tag(info.ETag), nil
}

// PutBlob implements depot.Store. The blob is packed into a file that is gone when the process is.
func (b *Bucket) PutBlob(write func(io.Writer) error) (depot.Content, error) {
	f, err := os.CreateTemp("", "blob-")
	if err != nil {
		return depot.Content{}, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return depot.Content{}, err
	}
	content, err := depot.Pack(f, write)
	if err != nil {
		return depot.Content{}, err
	}
	return content, b.upload(f, content.Blob)
}

// PutBeside implements depot.Store: what is young is not collected.
func (b *Bucket) PutBeside(write func(io.Writer) error) (depot.Content, error) {
	return b.PutBlob(write)
}

// Adopt implements depot.Store.
func (b *Bucket) Adopt(blob release.Blob) error {
	name := release.BlobName(blob.SHA256)
	info, err := b.stat(name)
	if err == nil && (info.Size != blob.Length || !young(info.LastModified)) {
		err = b.failed("adopt", name, fs.ErrNotExist)
	}
	return err
}

// upload stores a blob that is not there, or that Collect might remove before a release names it.
func (b *Bucket) upload(f *os.File, blob release.Blob) error {
	name := release.BlobName(blob.SHA256)
	info, err := b.stat(name)
	if err == nil && info.Size == blob.Length && young(info.LastModified) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	ctx, cancel := within(b.ctx, blob.Length)
	defer cancel()
	_, err = b.s3.Client.PutObject(ctx, b.bucket, b.key(name), f, blob.Length, minio.PutObjectOptions{ContentType: depot.ContentType(name)})
	if err != nil {
		return b.failed("put", name, err)
	}
	return nil
}

// List implements depot.Store.
func (b *Bucket) List(dir string) ([]depot.Entry, error) {
	ctx, cancel := context.WithTimeout(b.ctx, listTimeout)
	defer cancel()
	var entries []depot.Entry
	for o := range b.s3.Client.ListObjectsIter(ctx, b.bucket, minio.ListObjectsOptions{Prefix: b.key(dir) + "/"}) {
		if o.Err != nil {
			return nil, b.failed("list", dir, o.Err)
		}
		if !strings.HasSuffix(o.Key, "/") {
			entries = append(entries, depot.Entry{Name: path.Base(o.Key), Size: o.Size, Modified: o.LastModified})
		}
	}
	return entries, nil
}

// listTimeout bounds a listing, a request for each thousand objects.
const listTimeout = 5 * time.Minute

// Remove implements depot.Store.
func (b *Bucket) Remove(name string) error {
	ctx, cancel := within(b.ctx, 0)
	defer cancel()
	if err := b.s3.RemoveObject(ctx, b.bucket, b.key(name), minio.RemoveObjectOptions{}); err != nil {
		return b.failed("delete", name, err)
	}
	return nil
}

// Grace implements depot.Store.
func (b *Bucket) Grace() time.Duration { return grace }

// Sweep implements depot.Store: a bucket shows nothing that is not whole.
func (b *Bucket) Sweep() error { return nil }
