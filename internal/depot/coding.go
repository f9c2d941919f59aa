package depot

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Nodes of trees, and news, are JSON with many digests in it: packed they take little more than half as much. They are sent so to who asks for it by
// "Accept-Encoding" (RFC 9110 12.5.3), in the content coding "zstd" (RFC 8878; RFC 9659 bounds its window). Static servers and buckets send them as they
// are. What is signed is the content itself, whatever coding it comes in.
const (
	acceptHeader = "Accept-Encoding"
	codingHeader = "Content-Encoding"
	packedCoding = "zstd"
	plainCoding  = "identity"
)

// askPacked makes a request one whose answer may come packed, or, if not, one whose answer may not, by whatever coding: Go's client would take gzip.
func askPacked(r *http.Request, may bool) {
	coding := plainCoding
	if may {
		coding = packedCoding
	}
	r.Header.Set(acceptHeader, coding)
}

// takesPacked reports whether who asks takes packed content.
func takesPacked(r *http.Request) bool {
	for _, line := range r.Header.Values(acceptHeader) {
		for part := range strings.SplitSeq(line, ",") {
			coding, weight, _ := strings.Cut(part, ";")
			if !strings.EqualFold(strings.TrimSpace(coding), packedCoding) {
				continue
			}
			q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
			return err != nil || q > 0
		}
	}
	return false
}

// packer packs what is sent. It keeps nothing of it.
var packer = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // of options that are always the same
	}
	return e
})

// packed is content packed; nil if that takes no less.
func packed(data []byte) []byte {
	p := packer().EncodeAll(data, make([]byte, 0, len(data)))
	if len(p) >= len(data) {
		return nil
	}
	return p
}

// sendable is what to send of content to who asks, and has the answer say how it comes. Where packed is nil it comes as it is.
func sendable(w http.ResponseWriter, r *http.Request, data, packed []byte) []byte {
	w.Header().Set("Vary", acceptHeader)
	if packed != nil && takesPacked(r) {
		w.Header().Set(codingHeader, packedCoding)
		data = packed
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	return data
}

// readContent reads the content of an answer, of which neither what comes nor what it is unpacked to may have more than max octets. Of more it gives one
// more than max, for who judges that.
func readContent(response *http.Response, max int64) ([]byte, error) {
	came := &io.LimitedReader{R: response.Body, N: max + 1}
	switch coding := response.Header.Get(codingHeader); coding {
	case "", plainCoding:
		return io.ReadAll(came)
	case packedCoding:
		unpacker, err := unpack(came)
		if err != nil {
			return nil, err
		}
		defer unpacker.Close()
		data, err := io.ReadAll(io.LimitReader(unpacker, max+1))
		if err != nil && came.N == 0 {
			err = errTooLongPacked
		}
		return data, err
	default:
		return nil, fmt.Errorf("it came in the content coding %.20q, for which nobody has asked", coding)
	}
}

var errTooLongPacked = errors.New("what came packed is longer than the file may be")
