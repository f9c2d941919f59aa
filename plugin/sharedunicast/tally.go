package sharedunicast

import (
	"math"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/coredns/coredns/plugin/pkg/rcode"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/cpu"

	"github.com/coredns-anycast/coredns-anycast/internal/query"
)

// What plugin prometheus counts of a query takes longer than the rest of the fast path. So the fast path counts in arrays of
// its own, and a scrape adds them to the same metrics: names, labels and buckets are the plugin's.

// ledger is what is counted at one socket. It outlives the loaded Corefile, as counters do.
type ledger struct {
	server, proto, family string
	socket                int

	mu      sync.Mutex // held for a batch, and for a look at one metric
	tallies map[tallyKey]*tally
	zones   zoneTally
	_       cpu.CacheLinePad // that of another thread is beside it
}

// tallyKey is for whom a tally counts.
type tallyKey struct{ zone, plugin string }

// tally counts the queries for one zone that were answered at one socket.
type tally struct {
	types     [256]uint64
	rcodes    [32]uint64
	do        uint64
	requests  sizes
	responses sizes
	durations durations
	batch     uint64 // queries whose duration is not yet known
}

// sizes counts messages by their octets.
type sizes struct {
	short [query.PayloadSize + 1]uint32 // a carry goes to long
	long  map[int]uint64
}

// add counts a message.
func (s *sizes) add(size int) {
	if size < len(s.short) {
		if s.short[size]++; s.short[size] != 0 {
			return
		}
		s.addLong(size, 1<<32)
		return
	}
	s.addLong(size, 1)
}

func (s *sizes) addLong(size int, n uint64) {
	if s.long == nil {
		s.long = map[int]uint64{}
	}
	s.long[size] += n
}

// durations is a histogram of the time that queries took.
type durations struct {
	sum     float64 // seconds
	classic [17]uint64
	native  map[int]uint64
}

// add counts n queries that took so long.
func (d *durations) add(took time.Duration, n uint64) {
	seconds := took.Seconds()
	d.sum += seconds * float64(n)
	d.classic[sort.SearchFloat64s(plugin.TimeBuckets, seconds)] += n
	if d.native == nil {
		d.native = map[int]uint64{}
	}
	d.native[nativeKey(seconds)] += n
}

// count counts a query. The caller holds the ledger's mu.
func (t *tally) count(q *query.Query, code, request, response int) {
	t.types[typeLabel[min(int(q.Type), 256)]]++
	t.rcodes[code&31]++
	if q.DO {
		t.do++
	}
	t.requests.add(request)
	t.responses.add(response)
}

// typeLabel is where a type is counted: at 0 those that the metrics do not tell apart.
var typeLabel = func() (at [257]uint8) {
	for _, t := range []uint16{dns.TypeAAAA, dns.TypeA, dns.TypeCNAME, dns.TypeDNSKEY, dns.TypeDS, dns.TypeMX, dns.TypeNSEC3,
		dns.TypeNSEC, dns.TypeNS, dns.TypePTR, dns.TypeRRSIG, dns.TypeSOA, dns.TypeSRV, dns.TypeTXT, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeANY} {
		at[t] = uint8(t)
	}
	return at
}()

// ledgers are those of the process.
var ledgers struct {
	sync.Mutex
	all    []*ledger
	joined sync.Once
}

// ledgerOf returns the ledger of a socket.
func ledgerOf(server, proto string, local net.Addr, socket int) *ledger {
	ledgers.joined.Do(joinMetrics)
	family := "1"
	if a, err := netip.ParseAddrPort(local.String()); err == nil && !a.Addr().Unmap().Is4() {
		family = "2"
	}
	ledgers.Lock()
	defer ledgers.Unlock()
	for _, l := range ledgers.all {
		if l.server == server && l.proto == proto && l.family == family && l.socket == socket {
			return l
		}
	}
	l := &ledger{server: server, proto: proto, family: family, socket: socket, tallies: map[tallyKey]*tally{}}
	ledgers.all = append(ledgers.all, l)
	return l
}

// tally returns the one for a zone. The caller holds mu.
func (l *ledger) tally(s *served) *tally {
	key := tallyKey{s.config.Zone, s.label}
	t := l.tallies[key]
	if t == nil {
		t = new(tally)
		l.tallies[key] = t
	}
	return t
}

// counter counts what a loop answers, a batch at a time. The loop holds the ledger's mu meanwhile.
type counter struct {
	ledger  *ledger
	tallies map[*served]*tally // of the ledger
	touched []*tally           // in this batch
}

func newCounter(l *ledger) counter { return counter{ledger: l, tallies: map[*served]*tally{}} }

// count counts a query that was answered.
func (c *counter) count(s *served, q *query.Query, f *fast, request, response int) {
	t := c.tallies[s]
	if t == nil {
		t = c.ledger.tally(s)
		c.tallies[s] = t
	}
	if t.batch == 0 {
		c.touched = append(c.touched, t)
	}
	t.batch++
	t.count(q, f.rcode, request, response)
	if z := f.answer.Zone; z != nil {
		c.ledger.zones.count(z, f.rcode)
	}
}

// took says when the batch began, which ends now.
func (c *counter) took(began time.Time) {
	if len(c.touched) == 0 {
		return
	}
	took := time.Since(began)
	for _, t := range c.touched {
		t.durations.add(took, t.batch)
		t.batch = 0
	}
	c.touched = c.touched[:0]
}

// joinMetrics makes the core's metrics those that have our counts as well.
func joinMetrics() {
	for _, m := range []*joined{
		{inner: vars.RequestCount, ours: func(l *ledger, k tallyKey, t *tally, add adder) {
			for qtype, n := range t.types {
				if n > 0 {
					name := "other"
					if qtype > 0 {
						name = dns.TypeToString[uint16(qtype)]
					}
					add(sample{count: n}, "proto", l.proto, "family", l.family, "type", name)
				}
			}
		}},
		{inner: vars.RequestDo, ours: func(l *ledger, k tallyKey, t *tally, add adder) { add(sample{count: t.do}) }},
		{inner: vars.ResponseRcode, ours: func(l *ledger, k tallyKey, t *tally, add adder) {
			for code, n := range t.rcodes {
				if n > 0 {
					add(sample{count: n}, "rcode", rcode.ToString(code), "plugin", k.plugin)
				}
			}
		}},
		{inner: vars.RequestSize, ours: func(l *ledger, k tallyKey, t *tally, add adder) { add(t.requests.sample(), "proto", l.proto) }},
		{inner: vars.ResponseSize, ours: func(l *ledger, k tallyKey, t *tally, add adder) { add(t.responses.sample(), "proto", l.proto) }},
		{inner: vars.RequestDuration, ours: func(l *ledger, k tallyKey, t *tally, add adder) { add(t.durations.sample()) }},
	} {
		if prometheus.Unregister(m.inner) {
			prometheus.MustRegister(m)
		}
	}
}

// sample is what we add to a metric: to a counter only count.
type sample struct {
	count  uint64
	sum    float64
	bounds []float64 // of the classic buckets
	below  []uint64  // how many are at or below each
	native map[int]uint64
}

// adder takes a sample and its labels beside server, zone and view.
type adder func(s sample, labels ...string)

var sizeBounds = []float64{0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3} // those of vars

// sample is the histogram of the sizes.
func (s *sizes) sample() sample {
	h := sample{bounds: sizeBounds, below: make([]uint64, len(sizeBounds)), native: map[int]uint64{}}
	for size, n := range s.short {
		if n > 0 {
			h.observe(float64(size), uint64(n))
		}
	}
	for size, n := range s.long {
		h.observe(float64(size), n)
	}
	return h
}

// observe adds n observations of one value.
func (s *sample) observe(v float64, n uint64) {
	s.count += n
	s.sum += v * float64(n)
	for i, bound := range s.bounds {
		if v <= bound {
			s.below[i] += n
		}
	}
	s.native[nativeKey(v)] += n
}

func (d *durations) sample() sample {
	s := sample{sum: d.sum, bounds: plugin.TimeBuckets, below: make([]uint64, len(plugin.TimeBuckets)), native: map[int]uint64{}}
	for i, n := range d.classic {
		if s.count += n; i < len(s.below) {
			s.below[i] = s.count
		}
	}
	for k, n := range d.native {
		s.native[k] = n
	}
	return s
}

// nativeSchema is what plugin.NativeHistogramBucketFactor of 1.05 leads to: 2^4 buckets to a power of two.
const nativeSchema = 4

// nativeKey is the bucket of a native histogram that a positive value falls into.
func nativeKey(v float64) int {
	return int(math.Ceil(math.Log2(v) * (1 << nativeSchema)))
}

// joined is a metric of the core together with what the fast path has counted.
type joined struct {
	inner prometheus.Collector
	ours  func(l *ledger, k tallyKey, t *tally, add adder)
}

// Describe implements prometheus.Collector.
func (j *joined) Describe(ch chan<- *prometheus.Desc) { j.inner.Describe(ch) }

// Collect implements prometheus.Collector.
func (j *joined) Collect(ch chan<- prometheus.Metric) {
	ours := j.collectOurs()
	theirs := make(chan prometheus.Metric)
	go func() {
		j.inner.Collect(theirs)
		close(theirs)
	}()
	for m := range theirs {
		written := new(dto.Metric)
		if m.Write(written) != nil {
			ch <- m
			continue
		}
		key := labelKey(written.Label)
		if s, ok := ours[key]; ok {
			s.addTo(written)
			delete(ours, key)
		}
		ch <- &joinedMetric{m.Desc(), written}
	}
	if len(ours) == 0 {
		return
	}
	desc := make(chan *prometheus.Desc, 1)
	j.inner.Describe(desc)
	d := <-desc
	_, histogram := j.inner.(*prometheus.HistogramVec)
	for _, s := range ours {
		written := &dto.Metric{Label: s.labels}
		if histogram {
			written.Histogram = &dto.Histogram{}
		} else {
			written.Counter = &dto.Counter{}
		}
		s.addTo(written)
		ch <- &joinedMetric{d, written}
	}
}

// labelled is a sample and its labels in order.
type labelled struct {
	sample
	labels []*dto.LabelPair
}

// collectOurs adds up what all ledgers say, by labels.
func (j *joined) collectOurs() map[string]*labelled {
	ledgers.Lock()
	all := slices.Clone(ledgers.all)
	ledgers.Unlock()
	ours := map[string]*labelled{}
	for _, l := range all {
		l.mu.Lock()
		for k, t := range l.tallies {
			j.ours(l, k, t, func(s sample, labels ...string) {
				if s.count == 0 {
					return
				}
				pairs := pairsOf(append(labels, "server", l.server, "zone", k.zone, "view", "")...)
				key := labelKey(pairs)
				if before, ok := ours[key]; ok {
					before.join(s)
					return
				}
				ours[key] = &labelled{s, pairs}
			})
		}
		l.mu.Unlock()
	}
	return ours
}

func pairsOf(labels ...string) []*dto.LabelPair {
	var pairs []*dto.LabelPair
	for i := 0; i < len(labels); i += 2 {
		pairs = append(pairs, &dto.LabelPair{Name: &labels[i], Value: &labels[i+1]})
	}
	slices.SortFunc(pairs, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	return pairs
}

func labelKey(pairs []*dto.LabelPair) string {
	var b strings.Builder
	for _, p := range pairs {
		b.WriteString(p.GetName() + "\x00" + p.GetValue() + "\x00")
	}
	return b.String()
}

// join adds another sample of the same metric.
func (s *sample) join(o sample) {
	s.count += o.count
	s.sum += o.sum
	for i, n := range o.below {
		s.below[i] += n
	}
	for k, n := range o.native {
		s.native[k] += n
	}
}

// addTo adds the sample to a metric.
func (s *sample) addTo(m *dto.Metric) {
	if m.Counter != nil {
		value := m.Counter.GetValue() + float64(s.count)
		m.Counter.Value = &value
		return
	}
	h := m.Histogram
	count, sum := h.GetSampleCount()+s.count, h.GetSampleSum()+s.sum
	h.SampleCount, h.SampleSum = &count, &sum
	if len(h.Bucket) == 0 {
		for i := range s.bounds {
			h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: &s.bounds[i]})
		}
	}
	for i, b := range h.Bucket {
		if i < len(s.below) {
			n := b.GetCumulativeCount() + s.below[i]
			b.CumulativeCount = &n
		}
	}
	s.addNative(h)
}

// addNative adds the sample's native buckets, if the metric has those of the same schema.
func (s *sample) addNative(h *dto.Histogram) {
	schema, threshold := int32(nativeSchema), float64(prometheus.DefNativeHistogramZeroThreshold)
	if h.Schema != nil && h.GetSchema() != schema {
		return
	}
	all := map[int]int64{}
	at, n, count := 0, 0, int64(0)
	for _, span := range h.PositiveSpan {
		at += int(span.GetOffset())
		for range span.GetLength() {
			count += h.PositiveDelta[n]
			all[at] = count
			at++
			n++
		}
	}
	for k, n := range s.native {
		all[k] += int64(n)
	}
	h.Schema, h.ZeroThreshold = &schema, &threshold
	h.PositiveSpan, h.PositiveDelta = spansOf(all)
}

// spansOf puts buckets into the form in which native histograms are sent: runs of neighbours, and differences of counts.
func spansOf(all map[int]int64) (spans []*dto.BucketSpan, deltas []int64) {
	keys := make([]int, 0, len(all))
	for k := range all {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	next, before := 0, int64(0)
	for i, k := range keys {
		if i == 0 || k != next {
			offset, length := int32(k-next), uint32(0)
			spans = append(spans, &dto.BucketSpan{Offset: &offset, Length: &length})
		}
		*spans[len(spans)-1].Length++
		deltas = append(deltas, all[k]-before)
		before, next = all[k], k+1
	}
	return spans, deltas
}

// joinedMetric is a metric whose value is known.
type joinedMetric struct {
	desc  *prometheus.Desc
	value *dto.Metric
}

// Desc implements prometheus.Metric.
func (m *joinedMetric) Desc() *prometheus.Desc { return m.desc }

// Write implements prometheus.Metric.
func (m *joinedMetric) Write(to *dto.Metric) error {
	to.Label, to.Counter, to.Histogram = m.value.Label, m.value.Counter, m.value.Histogram
	return nil
}
