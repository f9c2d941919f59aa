package release

import (
	"cmp"
	"errors"
	"fmt"
)

// Rule is one way in which a repository can be wrong. The text is stable: it is a label of metrics and of status.
type Rule string

// What a repository is refused for.
const (
	Missing      Rule = "missing"        // a file that another one names is not there
	Unreadable   Rule = "unreadable"     // a file is there, but the disk or its permissions keep it from us
	Torn         Rule = "torn"           // empty, truncated, or not JSON
	Oversize     Rule = "oversize"       // longer than this kind of file may be
	Length       Rule = "length"         // not as long as the signed file that names it says
	Mismatch     Rule = "digest"         // not the content that the signed file that names it says
	Signature    Rule = "signature"      // not signed by the key that the root gives this role
	Rollback     Rule = "rollback"       // older than what was verified before
	Replay       Rule = "replay"         // a version seen before, with other content
	Format       Rule = "format"         // well-formed and signed, but against the rules of the format
	NumberReused Rule = "number-reused"  // a release number seen before, with other content
	NumberTooFar Rule = "number-too-far" // a release number further above those that were seen than any release is, see MaxStep
	WrongMesh    Rule = "wrong-mesh"     // the manifest of another mesh
	Packs        Rule = "packs"          // records out and in do not make the zone that was signed; its text is taken then
)

// advice is what an operator does about each rule.
var advice = map[Rule]string{
	Missing:      "publish again, or copy the whole repository with its timestamp last",
	Unreadable:   "see whether the repository can be reached, then its permissions and disk",
	Torn:         "the copy stopped half-way: copy the file again",
	Oversize:     "no mesh has a file of this size: find out who put it there",
	Length:       "the copy stopped half-way or was changed: copy the file again",
	Mismatch:     "the copy was changed on its way: copy the file again",
	Signature:    "if the mesh's keys were changed, give the node the new root; otherwise find out who signed this",
	Rollback:     "if the distribution host was restored from a backup, run meshctl recover there with a copy of this node's repository; otherwise an old copy of the repository was put back",
	Replay:       "two repositories were signed with the same keys: keep one distribution host",
	Format:       "find out which program wrote it, and use one version of the programs everywhere",
	NumberReused: "releases never change: publish the new content under a higher number",
	NumberTooFar: "no release is so far above the one before: if the release key was stolen, meshctl keys rotate release --numbers-from",
	WrongMesh:    "the node is pointed at the repository of another mesh: correct its configuration",
	Packs:        "nothing, if the next round of the sidecar's mirror brings the whole zone; otherwise see whether the repository has it",
}

// Advice is what an operator does about the rule; "" for what is none.
func (r Rule) Advice() string { return advice[r] }

// Error says which file of a repository was refused, by which rule, and what was seen. Callers branch on Rule.
type Error struct {
	File   string // path within the repository, or "memory" for what the node itself remembered
	Rule   Rule
	Detail string
	Do     string // what to do about this one; "": what the rule advises
}

// Error reads "FILE: RULE: what was seen (what to do)".
func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s: %s (%s)", e.File, e.Rule, e.Detail, cmp.Or(e.Do, advice[e.Rule]))
}

func refuse(file string, rule Rule, format string, args ...any) *Error {
	return &Error{File: file, Rule: rule, Detail: fmt.Sprintf(format, args...)}
}

// unreadable refuses a file that could not be read. An error that knows what to do about it has a method Advice.
func unreadable(name string, err error) *Error {
	e := refuse(name, Unreadable, "%v", err)
	var advised interface{ Advice() string }
	if errors.As(err, &advised) {
		e.Do = advised.Advice()
	}
	return e
}
