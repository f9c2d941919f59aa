package rdatatest

import (
	"encoding/binary"
	"errors"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
)

// Record is a resource record as a message has it, names expanded.
type Record struct {
	Owner []byte // wire format
	Type  uint16
	TTL   uint32 // seconds
	Data  []byte // RDATA
}

// Records are the records of all sections of a message.
func Records(message []byte) (list []Record, err error) {
	if len(message) < 12 {
		return nil, errors.New("no header")
	}
	at := 12
	for range binary.BigEndian.Uint16(message[4:]) {
		if _, at, err = rdata.ExpandName(nil, message, at); err != nil {
			return nil, err
		}
		at += 4
	}
	for i := 6; i < 12; i += 2 {
		for range binary.BigEndian.Uint16(message[i:]) {
			var r Record
			if r.Owner, at, err = rdata.ExpandName(nil, message, at); err != nil || at+10 > len(message) {
				return nil, errors.New("the message ends in a record")
			}
			r.Type, r.TTL = binary.BigEndian.Uint16(message[at:]), binary.BigEndian.Uint32(message[at+4:])
			end := at + 10 + int(binary.BigEndian.Uint16(message[at+8:]))
			if r.Data, err = rdata.Unpack(r.Type, message, at+10, end); err != nil {
				return nil, err
			}
			list, at = append(list, r), end
		}
	}
	return list, nil
}
