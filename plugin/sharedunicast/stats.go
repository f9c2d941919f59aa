package sharedunicast

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/rssac"
)

// traffic is what was counted at one socket since it was last collected. The thread that reads the socket has it almost to itself.
type traffic struct {
	kind   rssac.Kind
	mu     sync.Mutex
	counts rssac.Counts
}

// query counts a query.
func (t *traffic) query(size int, client netip.Addr) {
	if t != nil {
		t.mu.Lock()
		t.counts.Query(size, client)
		t.mu.Unlock()
	}
}

// response counts a response.
func (t *traffic) response(b []byte) {
	if t != nil {
		code := rcodeOf(b)
		t.mu.Lock()
		t.counts.Response(len(b), code)
		t.mu.Unlock()
	}
}

// rcodeOf is a response's RCODE, of which the OPT record has the upper bits (RFC 6891 6.1.3).
func rcodeOf(b []byte) int {
	code := int(b[3] & 15)
	records := 0
	for i := range 3 {
		records += int(binary.BigEndian.Uint16(b[6+2*i:]))
	}
	at := headerSize
	if binary.BigEndian.Uint16(b[4:]) > 0 {
		at = skipName(b, at) + 4
	}
	for ; records > 0; records-- {
		root := at < len(b) && b[at] == 0
		if at = skipName(b, at); at+10 > len(b) {
			break
		}
		if root && binary.BigEndian.Uint16(b[at:]) == dns.TypeOPT {
			return int(b[at+4])<<4 | code
		}
		at += 10 + int(binary.BigEndian.Uint16(b[at+8:]))
	}
	return code
}

// skipName is where what follows a name begins.
func skipName(b []byte, at int) int {
	for at < len(b) {
		switch c := int(b[at]); {
		case c == 0:
			return at + 1
		case c >= 0xc0:
			return at + 2
		default:
			at += 1 + c
		}
	}
	return at
}

// recorder has the statistics of a service, which RSSAC002 names, in a directory. It outlives a Corefile that is reloaded.
type recorder struct {
	dir, service string

	mu      sync.Mutex
	users   int
	sockets map[string]*traffic
	date    string // of the day
	day     *rssac.Day
	unsaid  map[string]*rssac.Day // by date, days whose reports could not be written
	failed  string                // what the log was told
	stop    chan struct{}
	stopped chan struct{}
}

// recorders are those of the process by directory.
var recorders = struct {
	sync.Mutex
	all map[string]*recorder
}{all: map[string]*recorder{}}

const (
	stateName  = "today.json" // what was counted, kept over a restart
	todayName  = "today.yaml" // the same as a report
	mostState  = 1 << 20      // octets
	mostUnsaid = 7            // days
	saveEvery  = 30 * time.Second
)

// openRecorder goes on with what was counted today. Each call wants one of close.
func openRecorder(dir, service string) (*recorder, error) {
	recorders.Lock()
	defer recorders.Unlock()
	if r := recorders.all[dir]; r != nil {
		if r.service != service {
			return nil, fmt.Errorf("stats: %s has those of %s, and not of %s: give each service a directory of its own", dir, r.service, service)
		}
		r.users++
		return r, nil
	}
	r := &recorder{dir: dir, service: service, users: 1, sockets: map[string]*traffic{}, unsaid: map[string]*rssac.Day{}, day: new(rssac.Day),
		stop: make(chan struct{}), stopped: make(chan struct{})}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("stats: %w", err)
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("stats: %w", err)
	}
	if err := r.turn(time.Now()); err != nil {
		return nil, fmt.Errorf("stats: %w", err)
	}
	recorders.all[dir] = r
	go r.run()
	return r, nil
}

// close saves what was counted when the last user is gone.
func (r *recorder) close() {
	recorders.Lock()
	defer recorders.Unlock()
	if r.users--; r.users > 0 {
		return
	}
	delete(recorders.all, r.dir)
	close(r.stop)
	<-r.stopped
}

// socket is what is counted at a socket of that name.
func (r *recorder) socket(kind rssac.Kind, name string) *traffic {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := fmt.Sprint(kind, " ", name)
	if r.sockets[key] == nil {
		r.sockets[key] = &traffic{kind: kind}
	}
	return r.sockets[key]
}

// run saves now and then, and at the end of each day.
func (r *recorder) run() {
	defer close(r.stopped)
	for ended := false; !ended; {
		now := time.Now()
		timer := time.NewTimer(min(saveEvery, now.Truncate(24*time.Hour).Add(24*time.Hour).Sub(now)))
		select {
		case <-timer.C:
		case <-r.stop:
			ended = true
		}
		timer.Stop()
		text := ""
		if err := r.turn(time.Now()); err != nil {
			text = err.Error()
		}
		if text != r.failed && text != "" {
			logger.Errorf("stats: %s: what was counted is kept in memory until it can be written", text)
		}
		r.failed = text
	}
}

// state is the file that is kept over a restart.
type state struct {
	Service string     `json:"service"`
	Date    string     `json:"date"`
	Traffic *rssac.Day `json:"traffic"`
}

// load reads what was counted before a restart. A file that is damaged is put aside: a node must not fail to start for it.
func (r *recorder) load() error {
	b, err := depot.ReadFile(r.dir, stateName, mostState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s := state{Traffic: new(rssac.Day)}
	err = json.Unmarshal(b, &s)
	if _, wrong := time.Parse(time.DateOnly, s.Date); err == nil {
		err = wrong
	}
	if err != nil {
		path := filepath.Join(r.dir, stateName)
		logger.Errorf("stats: %s is damaged, and now called %s.damaged; the day is counted from here: %v", path, stateName, err)
		return os.Rename(path, path+".damaged")
	}
	if s.Service != r.service {
		return fmt.Errorf("%s has the statistics of %s, and not of %s: give each service a directory of its own", r.dir, s.Service, r.service)
	}
	r.date, r.day = s.Date, s.Traffic
	return nil
}

// turn collects what was counted and saves it; if the day is over, it writes the day's reports. A clock that goes back begins no
// day again.
func (r *recorder) turn(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	today := now.UTC().Format(time.DateOnly)
	if r.date == "" {
		r.date = today
	}
	for _, t := range r.sockets {
		t.mu.Lock()
		r.day.Take(t.kind, &t.counts)
		t.mu.Unlock()
	}
	err := r.save()
	if today > r.date {
		if len(r.unsaid) == mostUnsaid {
			oldest := slices.Min(keysOf(r.unsaid))
			logger.Errorf("stats: the reports of %s are lost: they could not be written for %d days", oldest, mostUnsaid)
			delete(r.unsaid, oldest)
		}
		r.unsaid[r.date] = r.day
		r.date, r.day = today, new(rssac.Day)
	}
	for date, day := range r.unsaid {
		if wrong := r.report(date, day); wrong != nil {
			return wrong // and the file still has the day, if it is the last one
		}
		delete(r.unsaid, date)
		err = r.save()
	}
	return err
}

func keysOf(m map[string]*rssac.Day) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// save writes what there is of the day.
func (r *recorder) save() error {
	b, err := json.Marshal(state{r.service, r.date, r.day})
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, metric := range rssac.Metrics {
		text.WriteString(r.day.Report(metric, r.service, r.date))
	}
	return errors.Join(depot.WriteFile(r.dir, stateName, b, 0o644), depot.WriteFile(r.dir, todayName, []byte(text.String()), 0o644))
}

// report writes the reports of a day to where RSSAC002 has them: YYYY/MM/METRIC/SERVICE-YYYYMMDD-METRIC.yaml.
func (r *recorder) report(date string, day *rssac.Day) error {
	for _, metric := range rssac.Metrics {
		dir := filepath.Join(r.dir, date[:4], date[5:7], metric)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		name := fmt.Sprintf("%s-%s-%s.yaml", r.service, strings.ReplaceAll(date, "-", ""), metric)
		if err := depot.WriteFile(dir, name, []byte(day.Report(metric, r.service, date)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// parseStats reads DIRECTORY SERVICE.
func (s *settings) parseStats(args []string) error {
	if len(args) != 2 {
		return errors.New("give a directory and the name of the service")
	}
	for i, c := range args[1] {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '-') || i >= 200 {
			return fmt.Errorf("'%s' is no name of letters, digits, dots and hyphens", args[1])
		}
	}
	s.stats, s.service = filepath.Clean(args[0]), args[1]
	return nil
}

// kindOfSocket is how what comes to an address is counted.
func kindOfSocket(address netip.AddrPort, stream bool) rssac.Kind {
	kind := rssac.UDP4
	if stream {
		kind = rssac.TCP4
	}
	if !address.Addr().Unmap().Is4() {
		kind++
	}
	return kind
}
