// Package backend is the seam between who holds the sockets of a shared address (plugin/sharedunicast) and who has the
// data (plugin/meshsync, or another backend that answers from internal/zone). Neither knows the other's insides.
//
// It only has the interface, and what a request's context carries from the one to the other.
package backend

import (
	"context"

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

// Request is what is known of a request beside the message, while it is in the chain.
type Request struct {
	// Room is how many octets the OPT record of the response may take that whoever holds the sockets will put into it.
	Room int
	// Memory is an Answer that the backend may use for its own. It is used again when the handlers have returned; nil: there is none.
	Memory *zone.Answer
	// Answer is what the backend has made the response of, if it did: so it need not be looked up again.
	Answer *zone.Answer
}

type key struct{}

// With adds a Request to the context of its message.
func With(ctx context.Context, r *Request) context.Context { return context.WithValue(ctx, key{}, r) }

// From is the Request of a message, nil if nobody has given it one.
func From(ctx context.Context) *Request {
	r, _ := ctx.Value(key{}).(*Request)
	return r
}
