package meshsync

import "testing"

// Nodes that are set up alike have equal digests, whatever they are called and wherever they live; nothing else may
// differ (DRIFT-1).
func TestDriftIsWhatNeedNotDiffer(t *testing.T) {
	const corefile = `. {
    sharedunicast 192.0.2.53 2001:db8:53::53 { # everywhere
        admin 198.51.100.7 2001:db8::7
    }
    nsid tyo1
    prometheus 198.51.100.7:9153
    ready [2001:db8::7]:8181
}
`
	base := alike(corefile, "tyo1")
	for name, c := range map[string]struct {
		corefile, node string
		same           bool
	}{
		"another node": {`# osa
. {
	sharedunicast 192.0.2.53 2001:db8:53::53 {
		admin 198.51.100.8 2001:db8::8
	}
	nsid osa1

	prometheus 198.51.100.8:9153
	ready [2001:db8::8]:8181
}`, "osa1", true},
		"another port": {`. {
    sharedunicast 192.0.2.53 2001:db8:53::53 {
        admin 198.51.100.7 2001:db8::7
    }
    nsid tyo1
    prometheus 198.51.100.7:9154
    ready [2001:db8::7]:8181
}`, "tyo1", false},
		"another shared address": {`. {
    sharedunicast 192.0.2.54 2001:db8:53::53 {
        admin 198.51.100.7 2001:db8::7
    }
    nsid tyo1
    prometheus 198.51.100.7:9153
    ready [2001:db8::7]:8181
}`, "tyo1", false},
		"a name that is another's": {corefile, "osa1", false},
	} {
		if got := alike(c.corefile, c.node); (got == base) != c.same {
			t.Errorf("%s: same %v, want %v\n%s", name, got == base, c.same, got)
		}
	}
}
