package main

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestZonesAreReadWhenTheyAreOthers: beside a meshsync of the version before the whole status is read each time; beside one that speaks in brief
// the list of zones is read once, and again when it is another one and not said how it became that. The probe goes on with the serials of now.
func TestZonesAreReadWhenTheyAreOthers(t *testing.T) {
	n := newNode(t, "withdraw")
	looks := func(what string, wholes int64) {
		t.Helper()
		n.wholes.Store(0)
		for range 3 {
			n.step(true, gate.Ready)
		}
		if _, err := n.s.confirmation(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got := n.wholes.Load(); got != wholes {
			t.Errorf("%s: the whole status was read %d times, want %d", what, got, wholes)
		}
		if zones := n.s.status().Meshsync.Zones; !slices.Equal(zones, n.said.Load().Zones) {
			t.Errorf("%s: the status has zones %v", what, zones)
		}
	}
	says := func(digest string, serial uint32, change *status.ZonesChange) {
		n.say(uint64(serial), serial)
		said := *n.said.Load()
		said.ZonesDigest, said.ZonesChange = digest, change
		n.said.Store(&said)
		n.serial.Store(serial)
	}
	looks("the version before", 4)

	brief, err := socket.Serve(socket.Brief(n.s.cfg().Meshsync), func() any { return n.said.Load().Brief() })
	if err != nil {
		t.Fatal(err)
	}
	looks("a list without a digest", 0) // which is in what is said in brief
	says("a", 7, nil)
	looks("the first list", 1)
	looks("the same list", 0)
	says("b", 8, nil)
	looks("another list", 1)
	to := func(serial uint32) []status.Zone { return []status.Zone{{Origin: "example.org.", Serial: serial}} }
	says("c", 9, &status.ZonesChange{From: "b", Put: to(9)})
	looks("a list that became of the one before", 0)
	says("d", 10, &status.ZonesChange{From: "x", Put: to(10)})
	looks("a list that became of one that is not known", 1)
	says("e", 11, &status.ZonesChange{From: "d", Put: to(1)})
	looks("a change that is not of what is answered", 1) // no route hangs on it
	if err := brief.Close(); err != nil {
		t.Fatal(err)
	}
	looks("the version before, after a step back", 4)
}

// TestAWrongAnswerIsFoundInBrief: a serial that no list has is a fault, though meshsync is asked twice.
func TestAWrongAnswerIsFoundInBrief(t *testing.T) {
	n := newNode(t, "withdraw")
	said := *n.said.Load()
	said.ZonesDigest = "a"
	n.said.Store(&said)
	brief, err := socket.Serve(socket.Brief(n.s.cfg().Meshsync), func() any { return n.said.Load().Brief() })
	if err != nil {
		t.Fatal(err)
	}
	defer brief.Close()
	n.step(true, gate.Ready)
	n.serial.Store(6)
	n.step(true, gate.Ready)
	n.step(false, gate.ProbeDown)
	n.serial.Store(7)
	n.step(true, gate.Ready)
}

// TestReadersOfMeshsyncAtOnce: the look, confirmations and promises read at the same time, while lists change.
func TestReadersOfMeshsyncAtOnce(t *testing.T) {
	n := newNode(t, "withdraw")
	first := *n.said.Load()
	first.ZonesDigest = "7"
	n.said.Store(&first)
	path := n.s.cfg().Meshsync
	brief, err := socket.Serve(socket.Brief(path), func() any { return n.said.Load().Brief() })
	if err != nil {
		t.Fatal(err)
	}
	defer brief.Close()
	read := make(chan error, 4)
	for range cap(read) {
		go func() {
			for range 50 {
				node, err := n.s.meshsync.read(context.Background(), path)
				if err == nil && (len(node.Zones) != 1 || fmt.Sprint(node.Zones[0].Serial) != node.ZonesDigest) {
					err = fmt.Errorf("list %s with %v", node.ZonesDigest, node.Zones)
				}
				if err != nil {
					read <- err
					return
				}
			}
			read <- nil
		}()
	}
	for serial, left := uint32(1), cap(read); left > 0; serial++ {
		said := *n.said.Load()
		said.ZonesDigest, said.ZonesChange, said.Zones = fmt.Sprint(serial), nil, []status.Zone{{Origin: "example.org.", Serial: serial}}
		if serial%2 == 0 {
			said.ZonesChange = &status.ZonesChange{From: fmt.Sprint(serial - 1), Put: said.Zones}
		}
		n.said.Store(&said)
		select {
		case err := <-read:
			left--
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Millisecond):
		}
	}
}
