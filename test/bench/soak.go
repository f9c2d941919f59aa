package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// inFile is how many queries the file has that is asked over and over.
const inFile = 200_000

// soak asks one node, with all that can be on, very many queries, most of them by UDP, and looks at whether memory, threads and descriptors
// stay where they were.
func (b *bench) soak() error {
	m, zones, err := b.mesh("soak")
	if err != nil {
		return err
	}
	if err := m.current(zones[:1]); err != nil {
		return err
	}
	port, err := testenv.FreePort()
	if err != nil {
		return err
	}
	secrets, metrics := filepath.Join(b.dir, "secrets"), fmt.Sprintf("127.0.0.1:%d", port)
	if err := os.WriteFile(secrets, []byte("00112233445566778899aabbccddeeff\n"), 0o600); err != nil {
		return err
	}
	properties := fmt.Sprintf("rrl 100000\n cookies %s\n stats %s soak.example", secrets, filepath.Join(b.dir, "stats"))
	s := ours(m, b.bin, options{"soak", properties, "prometheus " + metrics})
	if err := b.warm(m, s); err != nil {
		return err
	}
	r, err := s.start(m.dir, "0,1")
	if err != nil {
		return err
	}
	defer r.stop()
	r.settle()
	all, err := questions(b.known, 10_000)
	if err != nil {
		return err
	}
	var first, last soaked
	for step := range b.soakSteps {
		if last, err = b.soakStep(r, all, metrics, last); err != nil {
			return err
		}
		if step == 0 {
			first = last
		}
		fmt.Fprintf(b.log, "%d of %d: %.1f million queries answered, %.0f lost, %.0f a second; %.1f MiB, %.0f threads, %.0f descriptors\n", step+1, b.soakSteps,
			last.answered/1e6, last.lost, last.answered/last.took.Seconds(), last.pss/(1<<20), last.threads, last.descriptors)
	}
	one := func(v float64) figures { return figures{"ours": {v}} }
	b.row("queries answered in the soak", "million", "", one(last.answered/1e6))
	b.row("queries lost in it", "", "0", one(last.lost))
	b.row("memory after the first part of it (PSS)", "MiB", "", one(first.pss/(1<<20)))
	b.row("memory at the end, to that", "", "≤ 1.05", one(last.pss/first.pss))
	b.row("threads at the end, beside those then", "", "0", one(last.threads-first.threads))
	b.row("descriptors at the end, beside those then", "", "0", one(last.descriptors-first.descriptors))
	return nil
}

// soaked is what came of a soak so far.
type soaked struct {
	answered, lost            float64
	took                      time.Duration
	pss, threads, descriptors float64
}

var lostQueries = regexp.MustCompile(`Queries lost:\s+(\d+)`)

// soakStep asks a part of the queries: by UDP with a cookie, some by TCP, and for the metrics.
func (b *bench) soakStep(r *running, all [][]byte, metrics string, before soaked) (soaked, error) {
	began, now := time.Now(), before
	times := max(1, b.soakQueries/b.soakSteps/inFile)
	out, err := exec.Command("dnsperf", "-s", "127.0.0.1", "-p", strconv.Itoa(r.port), "-d", filepath.Join(b.dir, "queries"), "-n", strconv.Itoa(times),
		"-c", "20", "-T", "1", "-q", "200", "-e", "-E", "10:0102030405060708").CombinedOutput()
	if err != nil {
		return now, fmt.Errorf("dnsperf: %w: %s", err, out)
	}
	n, lost := completed.FindSubmatch(out), lostQueries.FindSubmatch(out)
	if n == nil || lost == nil {
		return now, fmt.Errorf("dnsperf does not say how many queries were answered: %s", out)
	}
	answered, _ := strconv.ParseFloat(string(n[1]), 64)
	missing, _ := strconv.ParseFloat(string(lost[1]), 64)
	now.answered, now.lost = now.answered+answered, now.lost+missing
	for i := 0; i < len(all); i += 100 {
		if err := errors.Join(r.converse(all, i, 99), r.converse(all, i+99, 1)); err != nil {
			return now, fmt.Errorf("TCP: %w", err)
		}
	}
	now.answered += float64(len(all))
	response, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		return now, err
	}
	response.Body.Close()
	now.took += time.Since(began)
	time.Sleep(2 * time.Second) // what connections had is given back
	now.pss, _ = r.memory()
	now.threads, now.descriptors = 0, 0
	for _, pid := range r.processes() {
		threads, _ := os.ReadDir("/proc/" + pid + "/task")
		descriptors, _ := os.ReadDir("/proc/" + pid + "/fd")
		now.threads += float64(len(threads))
		now.descriptors += float64(len(descriptors))
	}
	return now, nil
}
