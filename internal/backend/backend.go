// Package backend is the seam between who holds the sockets of a shared address (plugin/sharedunicast) and who has the
// data (plugin/meshsync, or another backend that answers from internal/zone). Neither knows the other's insides.
//
// It only has the interface, and what a request's context carries from the one to the other.
package backend

import (
	"context"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Backend is a plugin's handler that can be asked in wire format. sharedunicast finds it among the handlers of a server
// block.
type Backend interface {
	// Release returns what to answer from at this instant, and the number of its release. No zones mean silence: then
	// nothing at all may leave the shared address, by whatever path (SYNC-F). It is called for each message, by any number of
	// goroutines: it does not wait, nor allocate. Whoever asks answers the one message from what it got, and asks again for
	// the next one.
	//
	// An answer is made by Zones.LookupInto and Answer.AppendTo. What is refused there may be known to a plugin behind the
	// backend, so it goes through the chain.
	Release() (number uint64, zones *zone.Zones)
}

// Request is what is known of a request beside the message, while it is in the chain. Key has it in the message's context until the
// handlers have returned, and nil after that.
type Request struct {
	// Room is how many octets the OPT record of the response may take that whoever holds the sockets will put into it.
	Room int
	// Memory is what the backend may use for its own. It is used again when the handlers have returned.
	Memory *Memory
	// Answer is what the backend makes the response of, if it does: so it need not be looked up again.
	Answer *zone.Answer
	// Writer takes responses in wire format.
	Writer Writer
}

// Memory is what a backend needs for a lookup.
type Memory struct {
	Answer zone.Answer
	Name   [255]byte // in wire format
}

// Writer takes a response in wire format, where CoreDNS's interface has but a message that each plugin could change.
type Writer interface {
	// WriteAnswer writes the response to a request, of at most so many octets: the Answer, to its question. It does so only if that is
	// the same as to call WriteMsg of w, the writer that the backend was given: if there is no plugin that would see the response.
	// Otherwise it reports false, and has written nothing: then the backend calls WriteMsg.
	WriteAnswer(w dns.ResponseWriter, request *dns.Msg, question *zone.Query, size int) bool
}

// Key is that of the *Request in a message's context.
type Key struct{}

// From is the Request of a message, nil if nobody has given it one.
func From(ctx context.Context) *Request {
	r, _ := ctx.Value(Key{}).(*Request)
	return r
}
