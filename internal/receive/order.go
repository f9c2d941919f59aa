package receive

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
)

// Fate is what became of a zone of an order. See package refresh.
type Fate = refresh.Fate

// orderFile is STATE/orders/ID.json: an order, and then its answer. Whoever gives it removes it when it is answered; one that nobody
// waits for goes after a while.
type orderFile struct {
	Version  int       `json:"version"`
	Zones    []string  `json:"zones,omitempty"` // none: it asks which are gone
	Until    time.Time `json:"until"`
	Answered time.Time `json:"answered,omitzero"`
	Fates    []Fate    `json:"fates,omitempty"`
}

const (
	ordersDir     = "orders"
	orderVersion  = 1
	maxOrderBytes = 1 << 24
	maxOrders     = 100
	ordersEvery   = time.Second // how often a Receiver looks for orders
	answerKept    = time.Hour   // for whoever gave the order
)

// PlaceOrder leaves an order, durably, for the Receiver that has state or the next one: zones are to be withdrawn that are gone from their
// sources, until then. Without zones it asks which are gone. Answer has what became of it.
func PlaceOrder(state string, zones []string, until time.Time) (id string, err error) {
	dir := filepath.Join(state, ordersDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	there, err := filepath.Glob(filepath.Join(dir, "*"+recordSuffix))
	if err != nil {
		return "", err
	}
	if len(there) >= maxOrders {
		return "", fmt.Errorf("%s has %d orders already", dir, len(there))
	}
	var random [8]byte
	rand.Read(random[:])
	id = hex.EncodeToString(random[:])
	return id, writeOrder(state, id, orderFile{Version: orderVersion, Zones: zones, Until: until.UTC()})
}

// Answer is what became of each zone of an order, which it removes then; or, of one without zones, what is gone. It is not known yet if
// not answered.
func Answer(state, id string) (fates []Fate, answered bool, err error) {
	o, err := readOrder(state, id)
	if err != nil || o.Answered.IsZero() {
		return nil, false, err
	}
	return o.Fates, true, os.Remove(orderPath(state, id))
}

func orderPath(state, id string) string { return filepath.Join(state, ordersDir, id+recordSuffix) }

func writeOrder(state, id string, o orderFile) error {
	data, err := json.MarshalIndent(o, "", "  ")
	if err == nil && len(data) >= maxOrderBytes {
		err = errors.New("an order of too many zones: name fewer")
	}
	if err != nil {
		return err
	}
	return depot.WriteFile(filepath.Join(state, ordersDir), id+recordSuffix, append(data, '\n'), 0o644)
}

func readOrder(state, id string) (o orderFile, err error) {
	data, err := depot.ReadFile(filepath.Join(state, ordersDir), id+recordSuffix, maxOrderBytes)
	if err != nil {
		return o, err
	}
	if err = json.Unmarshal(data, &o); err == nil && o.Version != orderVersion {
		err = fmt.Errorf("version %d of an order, and %d is what we know", o.Version, orderVersion)
	}
	for i := 0; err == nil && i < len(o.Zones); i++ {
		o.Zones[i], err = fields.ZoneName(o.Zones[i])
	}
	if err != nil {
		return o, fmt.Errorf("%s: %w", orderPath(state, id), err)
	}
	return o, nil
}

// followOrders takes orders until ctx ends, and has directories scanned for them.
func (r *Receiver) followOrders(ctx context.Context, folders []*folder) {
	for ctx.Err() == nil {
		pause(ctx, ordersEvery)
		if !r.takeOrders() {
			continue
		}
		for _, w := range folders {
			select {
			case w.ordered <- struct{}{}:
			default:
			}
		}
	}
}

// takeOrders hands on orders that are new, and reports whether there are any.
func (r *Receiver) takeOrders() bool {
	dir := filepath.Join(r.opt.State, ordersDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.complainOfOrders(dir, err)
		}
		return false
	}
	var orders []refresh.Order
	for _, e := range entries {
		id, is := strings.CutSuffix(e.Name(), recordSuffix)
		if !is {
			r.sweepOrder(e)
			continue
		}
		r.mu.Lock()
		taken := r.orders[id]
		r.mu.Unlock()
		if taken {
			continue
		}
		o, err := readOrder(r.opt.State, id)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			r.complainOfOrders(e.Name(), err)
		case o.Answered.IsZero():
			orders = append(orders, refresh.Order{ID: id, Zones: o.Zones, Until: instant.WallOf(o.Until)})
		default:
			r.sweepOrder(e)
		}
	}
	if len(orders) == 0 {
		return false
	}
	r.do(func(instant.Instant) {
		for _, o := range orders {
			r.opt.Log.Info("an order to withdraw what is gone is taken", "order", o.ID, "zones", refresh.Some(o.Zones))
			r.orders[o.ID] = true
			r.set.Ordered(o)
		}
	})
	return true
}

// complainOfOrders says once that one cannot be read.
func (r *Receiver) complainOfOrders(what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.badOrders[what] {
		r.badOrders[what] = true
		r.opt.Log.Error("an order cannot be read, and is not carried out", "error", err)
	}
}

// sweepOrder removes what nobody has waited for: an answer, or what a killed command left.
func (r *Receiver) sweepOrder(e fs.DirEntry) {
	if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > answerKept {
		os.Remove(filepath.Join(r.opt.State, ordersDir, e.Name())) // it is tried again
	}
}

// answer writes down what became of an order. What could not be withdrawn durably is not. If the answer cannot be written, the order is
// taken again. It is called with mu held.
func (r *Receiver) answer(id string, fates []Fate) {
	delete(r.orders, id)
	for i, f := range fates {
		if err := r.left[f.Zone]; f.Withdrawn && err != nil {
			fates[i] = Fate{Zone: f.Zone, Why: "what is left of it cannot be removed: " + err.Error()}
		}
	}
	o, err := readOrder(r.opt.State, id)
	if errors.Is(err, fs.ErrNotExist) { // whoever gave it has taken it away
		return
	}
	if err == nil {
		o.Answered, o.Fates = r.opt.Now().UTC(), fates
		err = writeOrder(r.opt.State, id, o)
	}
	if err != nil {
		r.opt.Log.Error("what became of an order cannot be written; it is taken again", "order", id, "error", err)
	}
}
