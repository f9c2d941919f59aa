package depot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Store is where a distribution host publishes: a directory (Dir), or a bucket (internal/bucket). Names have slashes, as
// in package release. What a method that writes has done is durable when it returns nil; when it returns another error
// than those named, it may have been done or not. Errors of reading wrap fs.ErrNotExist where there is no such file.
//
// A directory has one writer at a time, who holds its Lock. A bucket has any number, who never wait for each other:
// Create and Swap have one winner, and whoever was not it reads again.
type Store interface {
	fs.FS // what it opens is an io.ReadSeeker too

	// Read takes a file whole, at most max bytes.
	Read(name string, max int64) ([]byte, Tag, error)
	// Tag is that of the content that a file has now.
	Tag(name string) (Tag, error)
	// Create puts a file that is not there yet. It is nil if the file holds just this already, so that a writer which was
	// interrupted can repeat itself, and ErrExists if it holds something else. What is there in the place of a file that is named by its content is
	// damaged, and replaced.
	Create(name string, data []byte) error
	// CreateAll is Create of files that nothing names yet, in any order. With an error any of them may be there.
	CreateAll(files []release.File) error
	// Swap puts data in the place of the content that has the tag was. It is ErrChanged if that is not there any more, but
	// nil if just this data is: two writers who have decided the same are told both that it is done. It is given up when
	// ctx ends, with the cause.
	Swap(ctx context.Context, name string, data []byte, was Tag) (Tag, error)
	// PutBlob stores the text that write produces, packed, and says what a release must say of it. Memory is bounded. An
	// error of write comes back as it is, and stores nothing.
	PutBlob(write func(io.Writer) error) (Content, error)
	// PutBeside is PutBlob by who does not hold the lock, so that a release to come may Adopt what it stored. It is kept for a day.
	PutBeside(write func(io.Writer) error) (Content, error)
	// Adopt makes what PutBeside stored a blob that a release may name. It wraps fs.ErrNotExist if it is not kept any more.
	Adopt(b release.Blob) error

	// List names the files right in a directory.
	List(dir string) ([]Entry, error)
	Remove(name string) error
	// Grace is how old a blob or a manifest must be before Collect removes it: another writer may be about to name it.
	// PutBlob and Create make young what they find. 0: there is no other writer.
	Grace() time.Duration
	// Sweep removes what writers that were killed left behind.
	Sweep() error
	Close() error
}

// Tag tells one content of a file from the next; equal tags mean equal content.
type Tag string

// Entry is a file of a directory.
type Entry struct {
	Name     string // without the directory
	Size     int64  // bytes
	Modified time.Time
}

// ErrExists is wrapped when a file that is written once is there already, with other content.
var ErrExists = errors.New("exists with other content")

// ErrChanged is wrapped when a file was changed by another writer since it was read.
var ErrChanged = errors.New("another distribution host was first")

// SecondWriter says what it means when a numbered file exists with other content.
func SecondWriter(err error) error {
	if errors.Is(err, ErrExists) {
		return fmt.Errorf("%w: another distribution host has published here", err)
	}
	return err
}
