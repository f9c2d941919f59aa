package adopt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// errTemplate says that a template is not as "meshctl init" makes it.
var errTemplate = errors.New("want one server block, with the key \".\" alone on its line, and nothing behind it, as meshctl init makes it")

// Corefile is the nodes' Corefile, as a template: base, which has one block for all zones, with what the plan's blocks have beside that
// and with a block for transfers at the administrative address.
func (p *Plan) Corefile(base string) (string, error) {
	head, body, err := cut(base)
	if err != nil || len(p.Blocks) == 0 {
		return base, err
	}
	var b strings.Builder
	b.WriteString(head)
	for i, block := range p.Blocks {
		if i > 0 {
			b.WriteString("\n")
		}
		own := map[string]bool{"reload": i > 0} // once is enough
		for _, d := range block.Directives {
			own[strings.Fields(d)[0]] = true
		}
		fmt.Fprintf(&b, "%s {\n", strings.Join(block.Zones, " "))
		for _, d := range body {
			if !own[name(d)] {
				b.WriteString(d)
			}
		}
		for _, d := range block.Directives {
			b.WriteString(indent(d))
		}
		b.WriteString("}\n")
	}
	if p.Transfer != nil {
		b.WriteString(p.Transfer.block(body))
	}
	return b.String(), nil
}

// cut cuts a template into what is before its block, and the directives in it, each with all of its lines.
func cut(base string) (head string, body []string, err error) {
	head, rest, ok := strings.Cut("\n"+base, "\n. {\n")
	inside, after, closed := strings.Cut(rest, "\n}\n")
	if !ok || !closed || strings.TrimSpace(after) != "" {
		return "", nil, errTemplate
	}
	for _, line := range strings.Split(inside, "\n") {
		if n := len(body); n > 0 && (strings.HasPrefix(line, "     ") || strings.TrimSpace(line) == "}") {
			body[n-1] += line + "\n"
			continue
		}
		body = append(body, line+"\n")
	}
	if head = strings.TrimPrefix(head, "\n"); head != "" {
		head += "\n"
	}
	return head, body, nil
}

// name is that of a directive.
func name(directive string) string {
	if words := strings.Fields(directive); len(words) > 0 {
		return words[0]
	}
	return ""
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(text, "\n", "\n    ") + "\n"
}

// block is the block for transfers; body is what nodes have for answers.
func (t *Transfer) block(body []string) string {
	var b strings.Builder
	b.WriteString("\n. {\n    bind {{.AdminAddress}}\n    tsig {\n        secrets {{.Etc}}/transfer.key\n        require AXFR IXFR\n    }\n")
	for _, r := range t.Rules {
		fmt.Fprintf(&b, "    transfer %s {\n        to %s\n    }\n", strings.Join(r.Zones, " "), strings.Join(r.To, " "))
	}
	for _, d := range body {
		if name(d) == "meshsync" {
			if len(t.Notify) > 0 {
				d = strings.TrimSuffix(d, "    }\n") + "        notify " + strings.Join(t.Notify, " ") + "\n    }\n"
			}
			b.WriteString(d)
		}
	}
	if i := slices.IndexFunc(body, func(d string) bool { return name(d) == "errors" }); i >= 0 {
		b.WriteString(body[i])
	}
	b.WriteString("}\n")
	return b.String()
}
