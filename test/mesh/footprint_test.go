package mesh_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestFootprint: a node with ten small zones, as it is shipped, announced by BGP, and asked by nobody but its own probe. Memory is
// bounded; processor time is told, and bounded far above what it should be, since this machine may be busy.
func TestFootprint(t *testing.T) {
	t.Parallel()
	binary := testenv.Need(t, "bird", "birdc")[0]
	m, _ := newServedMesh(t, "24h", "1h", "tyo")
	r := m.startRouter(binary)
	m.restartSidecar("tyo", leaves)
	m.side["tyo"].Stop()
	m.write("tyo/sidecar.yaml", strings.NewReplacer(", interval: 1s}", "}", "probe: {interval: 500ms, timeout: 450ms, slow: 100ms, rise: 2, fall: 2}\n", "").Replace(readFile(m.path("tyo", "sidecar.yaml"))))
	m.startSidecar("tyo")
	files := []string{"release"}
	for i := range 9 { // beside example.org
		text := strings.ReplaceAll(zoneText(1), "example.org.", fmt.Sprintf("example%d.org.", i))
		for host := range 100 {
			text += fmt.Sprintf("host%d A 192.0.2.%d\n", host, host)
		}
		files = append(files, m.write(fmt.Sprintf("example%d.org.zone", i), text))
	}
	m.meshctl(files...)
	m.number++
	m.schedule()
	m.awaitServing("tyo", m.number)
	r.await("tyo")

	window := 10 * time.Second
	if os.Getenv("FULL") != "" {
		window = time.Minute
	}
	before, began := map[string]time.Duration{}, time.Now()
	programs := map[string]*lab.Process{"coredns": m.coredn["tyo"], "anycast-sidecar": m.side["tyo"]}
	for name, p := range programs {
		before[name] = processorTime(t, p.Pid())
	}
	time.Sleep(window)
	memory, share := 0, 0.0
	for name, p := range programs {
		kib := memoryKiB(t, p.Pid(), "VmRSS")
		used := 100 * (processorTime(t, p.Pid()) - before[name]).Seconds() / time.Since(began).Seconds()
		t.Logf("%s: %.1f MiB (%d KiB of it its own), %.2f %% of a core", name, float64(kib)/1024, memoryKiB(t, p.Pid(), "RssAnon"), used)
		memory, share = memory+kib, share+used
	}
	if memory > 60<<10 || share > 10 {
		t.Errorf("both: %.1f MiB, %.2f %% of a core", float64(memory)/1024, share)
	}
}

// memoryKiB is a line of the status of a process (proc(5)): VmRSS is what is in memory, RssAnon what of that lies in no file.
func memoryKiB(t *testing.T, pid int, name string) int {
	t.Helper()
	_, line, _ := strings.Cut(readFile(fmt.Sprintf("/proc/%d/status", pid)), name+":")
	kib, err := strconv.Atoi(strings.Fields(line)[0])
	lab.Must(t, err)
	return kib
}

// processorTime is what a process has used, in user and system mode (proc(5): fields 14 and 15, in hundredths of a second).
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text := readFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(text[strings.LastIndex(text, ")")+1:])
	user, err := strconv.Atoi(fields[11])
	lab.Must(t, err)
	system, err := strconv.Atoi(fields[12])
	lab.Must(t, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}
