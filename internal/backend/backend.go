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

// room is the key of what WithRoom adds to a context.
type room struct{}

// WithRoom adds to a request's context how many octets the OPT record of the response may take that whoever holds the
// sockets will put into it.
func WithRoom(ctx context.Context, octets int) context.Context {
	return context.WithValue(ctx, room{}, octets)
}

// Room is how many octets the OPT record of the response may take, if somebody puts one into it.
func Room(ctx context.Context) (octets int, ok bool) {
	octets, ok = ctx.Value(room{}).(int)
	return octets, ok
}
