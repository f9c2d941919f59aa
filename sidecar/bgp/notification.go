package bgp

import "fmt"

// errorNames are the NOTIFICATION error codes and their subcodes, as the RFCs name them.
var errorNames = map[uint8]struct {
	name     string
	subcodes map[uint8]string
}{
	1: {"Message Header Error", map[uint8]string{1: "Connection Not Synchronized", 2: "Bad Message Length", 3: "Bad Message Type"}}, // RFC 4271 4.5
	2: {"OPEN Message Error", map[uint8]string{1: "Unsupported Version Number", 2: "Bad Peer AS", 3: "Bad BGP Identifier",
		4: "Unsupported Optional Parameter", 6: "Unacceptable Hold Time",
		7:  "Unsupported Capability", // RFC 5492 5
		11: "Role Mismatch"}},        // RFC 9234 4.2
	3: {"UPDATE Message Error", map[uint8]string{1: "Malformed Attribute List", 2: "Unrecognized Well-known Attribute",
		3: "Missing Well-known Attribute", 4: "Attribute Flags Error", 5: "Attribute Length Error", 6: "Invalid ORIGIN Attribute",
		8: "Invalid NEXT_HOP Attribute", 9: "Optional Attribute Error", 10: "Invalid Network Field", 11: "Malformed AS_PATH"}},
	4: {"Hold Timer Expired", nil},
	5: {"Finite State Machine Error", map[uint8]string{1: "Receive Unexpected Message in OpenSent State",
		2: "Receive Unexpected Message in OpenConfirm State", 3: "Receive Unexpected Message in Established State"}}, // RFC 6608
	6: {"Cease", map[uint8]string{1: "Maximum Number of Prefixes Reached", 2: "Administrative Shutdown", 3: "Peer De-configured",
		4: "Administrative Reset", 5: "Connection Rejected", 6: "Other Configuration Change", 7: "Connection Collision Resolution",
		8:  "Out of Resources", // RFC 4486
		9:  "Hard Reset",       // RFC 8538
		10: "BFD Down"}},       // RFC 9384
	7: {"ROUTE-REFRESH Message Error", map[uint8]string{1: "Invalid Message Length"}}, // RFC 7313 5
	8: {"Send Hold Timer Expired", nil},                                               // RFC 9687
}

// notificationName is what an RFC calls a NOTIFICATION, with its numbers.
func notificationName(code, subcode uint8) string {
	e, known := errorNames[code]
	if !known {
		return fmt.Sprintf("unknown error (%d/%d)", code, subcode)
	}
	if sub := e.subcodes[subcode]; sub != "" {
		return fmt.Sprintf("%s / %s (%d/%d)", e.name, sub, code, subcode)
	}
	return fmt.Sprintf("%s (%d/%d)", e.name, code, subcode)
}
