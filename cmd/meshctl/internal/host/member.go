package host

import (
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// AddMember takes a node into the mesh and writes the directory that it is given, whose path it returns: root.json,
// ca.crt, node.crt and node.key. admin is HOST:PORT of its administrative plane.
func (h *Host) AddMember(name, admin string) (string, error) {
	address, _, err := net.SplitHostPort(admin)
	if err != nil || address == "" {
		return "", hint("for example --admin 198.51.100.7:8443", "%q is not HOST:PORT", admin)
	}
	if name == HostName {
		return "", hint("choose another name", "%s is the name of the distribution host itself", name)
	}
	m := h.view.Manifest
	if slices.ContainsFunc(m.Members, func(o release.Member) bool { return o.Name == name }) {
		return "", hint("to give it a new certificate or address: meshctl member remove "+name+", then add it again", "%s is a member already", name)
	}
	m.Members = append(slices.Clone(m.Members), release.Member{Name: name, Admin: "https://" + admin})
	slices.SortFunc(m.Members, func(a, b release.Member) int { return strings.Compare(a.Name, b.Name) })
	if err := m.Validate(); err != nil {
		return "", err
	}
	if err := h.writeBundle(name, address); err != nil {
		return "", err
	}
	return h.path(nodesDir, name), h.publish(m, Event{Event: "member added", Detail: name + " " + admin})
}

func (h *Host) writeBundle(name, address string) error {
	dir := h.path(nodesDir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := depot.ReadFile(h.path(pkiDir), "ca.crt", maxPEMBytes)
	if err != nil {
		return err
	}
	if err := depot.WriteFile(dir, "ca.crt", ca, 0o644); err != nil {
		return err
	}
	if err := depot.WriteFile(dir, "root.json", h.mem.Root, 0o644); err != nil {
		return err
	}
	return h.issue(nodesDir+"/"+name, "node", name, []string{address})
}

// RemoveMember takes a node out of the mesh: it is served no more, and no switchover waits for it. The lease that it
// holds lasts until its end.
func (h *Host) RemoveMember(name string) error {
	m := h.view.Manifest
	others := slices.DeleteFunc(slices.Clone(m.Members), func(o release.Member) bool { return o.Name == name })
	if len(others) == len(m.Members) {
		return hint("meshctl member list shows all", "%s is not a member", name)
	}
	m.Members = others
	if err := h.publish(m, Event{Event: "member removed", Detail: name}); err != nil {
		return err
	}
	return os.RemoveAll(h.path(nodesDir, name))
}
