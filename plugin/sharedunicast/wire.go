package sharedunicast

import (
	"context"
	"reflect"
	"sync"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/backend"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// room is what a message needs of memory until the chain has returned.
type room struct {
	backend.Memory
	zone.Request
	opt, options []byte
	response     [packSize]byte
}

// rooms are those that no message needs now.
var rooms = sync.Pool{New: func() any { return new(room) }}

// WriteAnswer implements backend.Writer. It does at once what would become of a dns.Msg in the writers of the core and of this package.
func (x *responder) WriteAnswer(w dns.ResponseWriter, r *dns.Msg, q *zone.Query, size int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	room, a := x.room, x.known.Answer
	if x.over || !x.unseen(w, r, a) || copiesOption(r) {
		return false
	}
	if f := x.judge(nil); f != sent {
		x.writeMsg(new(dns.Msg).SetRcode(r, a.Rcode), f)
		return true
	}
	room.opt = room.opt[:0]
	if x.edns {
		room.options = x.front.guard.appendOptions(room.options[:0], x.query, &x.asked, told{a.Rcode, a.Zone})
		room.opt = query.AppendOPT(room.opt, a.Rcode, x.do, room.options)
	}
	room.Request = zone.Request{Query: *q, ID: r.Id, RecursionDesired: r.RecursionDesired, OPT: room.opt}
	response, _ := a.AppendTo(room.response[:0], &room.Request, min(size, x.limit))
	response = x.front.guard.padded(response, 0, len(room.opt), x.query, &x.asked)
	x.count(a.Rcode)
	x.write(response)
	return true
}

// copiesOption reports whether a request has an option that the core would copy into the response.
func copiesOption(r *dns.Msg) bool {
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if edns.SupportedOption(o.Option()) {
				return true
			}
		}
	}
	return false
}

// unseen reports whether an answer that is written to w reaches x without a plugin that sees it, and may leave (HOST-3). On its way are
// then only writers that do nothing, or what is done here as well.
func (x *responder) unseen(w dns.ResponseWriter, r *dns.Msg, a *zone.Answer) bool {
	judged := false
	for {
		switch v := w.(type) {
		case *responder:
			return v == x && judged
		case *answerWriter:
			judged = a.Authoritative || v.refers(r, a)
			w = v.ResponseWriter
		case *request.ScrubWriter: // cuts what is too long, and puts in an OPT record that is made anew here
			w = v.ResponseWriter
		default:
			writer := reflect.ValueOf(w)
			if writer.Type() != pluginWriter {
				return false
			}
			w = writer.Elem().Field(0).Interface().(dns.ResponseWriter)
		}
	}
}

// refers reports whether an answer without AA is one that mayPass lets pass whatever of it finds room: a referral.
func (w *answerWriter) refers(r *dns.Msg, a *zone.Answer) bool {
	if a.Rcode != dns.RcodeSuccess || len(a.Answer) > 0 {
		return false
	}
	found := false
	for i := range a.Authority {
		switch a.Authority[i].Type {
		case dns.TypeSOA:
			return false
		case dns.TypeNS:
			owner, _, err := dns.UnpackDomainName(a.Authority[i].Owner, 0)
			if err != nil || !isDelegated(owner, r.Question[0].Name, w.zones) {
				return false
			}
			found = true
		}
	}
	return found
}

// pluginWriter is the type of the writer that the core puts between two plugins. It has the writer before it as its first field, and
// tells that, if it is one of plugin prometheus, which plugin has written.
var pluginWriter = func() (t reflect.Type) {
	plugin.NextOrFailure("", plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, _ *dns.Msg) (int, error) {
		t = reflect.TypeOf(w)
		return 0, nil
	}), context.Background(), nil, nil)
	return t
}()
