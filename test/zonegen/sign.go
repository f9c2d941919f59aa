package zonegen

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// A Recipe says how a zone is signed.
type Recipe struct {
	Flavour    string // one of Flavours
	algorithms []string
	Salt       string // of NSEC3, "-" for none
	Iterations int
	second     bool // half of another NSEC3 chain is there too, as while parameters are changed (RFC 5155 10.4)
}

// Flavours are how zones are signed: not at all, with NSEC, with NSEC3, and with NSEC3 and opt-out.
var Flavours = []string{"unsigned", "nsec", "nsec3", "optout"}

func newRecipe(r *rand.Rand, flavour string) Recipe {
	rec := Recipe{Flavour: flavour, algorithms: []string{"ECDSAP256SHA256"}}
	if flavour == "unsigned" {
		return rec
	}
	switch r.IntN(10) {
	case 0:
		rec.algorithms = []string{"ED25519"}
	case 1:
		rec.algorithms = []string{"ECDSAP256SHA256", "ED25519"}
	case 2:
		rec.algorithms = []string{"RSASHA256"}
	case 3:
		rec.algorithms = []string{"ECDSAP384SHA384"}
	}
	rec.Salt = []string{"-", "-", "ABCD", "00112233445566778899aabbccddeeff"}[r.IntN(4)]
	rec.Iterations = []int{0, 0, 1, 20}[r.IntN(4)]
	rec.second = flavour != "nsec" && r.IntN(6) == 0
	return rec
}

// sign signs a zone with BIND's tools, in a directory of its own, and returns the signed text.
func (s *Source) sign(dir string) ([]byte, error) {
	if s.Recipe.Flavour == "unsigned" {
		return []byte(s.Text()), nil
	}
	dir, err := os.MkdirTemp(dir, "sign-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "zone"), []byte(s.Text()), 0o644); err != nil {
		return nil, err
	}
	var keys []string
	for _, algorithm := range s.Recipe.algorithms {
		args := []string{"-q", "-a", algorithm, "-f", "KSK", s.Origin}
		if algorithm == "RSASHA256" {
			args = append([]string{"-b", "1024"}, args...)
		}
		key, err := output(dir, "dnssec-keygen", args...)
		if err != nil {
			return nil, err
		}
		keys = append(keys, strings.TrimSpace(key))
	}
	text, err := s.signWith(dir, keys, s.Recipe.Salt)
	if err != nil {
		return nil, err
	}
	if s.Recipe.second {
		more, err := s.signWith(dir, keys, "EF")
		if err != nil {
			return nil, err
		}
		text = append(text, halfChain(more)...)
	}
	return restore(text, s.Lines), nil
}

func (s *Source) signWith(dir string, keys []string, salt string) ([]byte, error) {
	args := []string{"-q", "-P", "-z", "-S", "-e", "now+7776000", "-O", "full", "-o", s.Origin, "-f", "signed"}
	switch s.Recipe.Flavour {
	case "nsec3":
		args = append(args, "-3", salt, "-H", fmt.Sprint(s.Recipe.Iterations))
	case "optout":
		args = append(args, "-3", salt, "-H", fmt.Sprint(s.Recipe.Iterations), "-A")
	}
	if _, err := output(dir, "dnssec-signzone", append(append(args, "zone"), keys...)...); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, "signed"))
}

// halfChain takes the NSEC3 records out of a signed zone of which the hash begins with a digit, and their signatures. Lines
// have the form "owner TTL IN type RDATA".
func halfChain(signed []byte) []byte {
	var lines [][]byte
	for line := range bytes.Lines(signed) {
		f := bytes.Fields(line)
		if len(f) > 4 && f[0][0] < 'A' && (string(f[3]) == "NSEC3" || string(f[3]) == "RRSIG" && string(f[4]) == "NSEC3") {
			lines = append(lines, line)
		}
	}
	return bytes.Join(lines, nil)
}

// output runs a command and returns what it wrote.
func output(dir, name string, args ...string) (string, error) {
	path, err := testenv.Look(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w (./build.sh daemons installs it as root on Debian)", name, err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		detail := ""
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			detail = string(exit.Stderr)
		}
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, detail)
	}
	return string(out), nil
}
