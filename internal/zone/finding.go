package zone

import "fmt"

// Severity says whether a finding keeps a zone from being served.
type Severity int

const (
	Warning Severity = iota // the zone is served all the same
	Error                   // the zone is refused
)

func (s Severity) String() string {
	if s == Error {
		return "error"
	}
	return "warning"
}

// Finding is something wrong with a zone, and where.
type Finding struct {
	File     string
	Line     int    // 0 if the finding is about no single line
	Zone     string // origin, if known
	Owner    string // owner name, if it is about one
	Rule     string // short and stable, such as "cname-and-other-data": to search for, count and test
	Detail   string // for a person: what is wrong and what to do
	Severity Severity
}

// String is one line: file:line: severity: owner: detail [rule].
func (f Finding) String() string {
	place := f.File
	if place == "" {
		place = f.Zone
	}
	if f.Line > 0 {
		place = fmt.Sprintf("%s:%d", place, f.Line)
	}
	if place == "" {
		place = "zone"
	}
	if f.Owner != "" {
		return fmt.Sprintf("%s: %s: %s: %s [%s]", place, f.Severity, f.Owner, f.Detail, f.Rule)
	}
	return fmt.Sprintf("%s: %s: %s [%s]", place, f.Severity, f.Detail, f.Rule)
}

// MaxFindings bounds the findings that are reported for a zone; of what lies beyond only the number is said.
const MaxFindings = 100

// findings collects up to MaxFindings, and never loses the fact that one of them was an error.
type findings struct {
	list   []Finding
	left   int
	errors bool
}

func (fs *findings) add(f Finding) {
	if f.Severity == Error {
		fs.errors = true
	}
	if len(fs.list) >= MaxFindings {
		fs.left++
		return
	}
	fs.list = append(fs.list, f)
}

func (fs *findings) all() []Finding {
	if fs.left == 0 {
		return fs.list
	}
	more := Finding{Zone: fs.list[0].Zone, File: fs.list[0].File, Rule: "more-findings", Severity: Warning,
		Detail: fmt.Sprintf("and %d more", fs.left)}
	if fs.errors {
		more.Severity = Error
	}
	return append(fs.list, more)
}

// HasErrors reports whether a finding is an Error.
func HasErrors(fs []Finding) bool {
	for _, f := range fs {
		if f.Severity == Error {
			return true
		}
	}
	return false
}
