package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// control is a connection to Knot's control socket, by which many records are changed at once: knotc takes 20 ms for each, and what one
// message of DNS UPDATE has room for is too little.
type control struct {
	conn net.Conn
	in   *bufio.Reader
}

// order is one for Knot: a command, and what it is about (libknot/control/control.h).
type order struct{ command, zone, owner, ttl, kind, data string }

// Units of the protocol, and the numbers of what they have.
const (
	controlEnd   = 0
	controlData  = 1
	controlExtra = 2
	controlBlock = 3
	controlFirst = 16 // data unit i has the code 16 + i
	controlError = 2
)

func dialControl(socket string, patience time.Duration) (*control, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	return &control{conn, bufio.NewReader(conn)}, nil
}

// does has Knot carry out orders, one after the other.
func (c *control) does(orders ...order) error {
	for _, o := range orders {
		message := []byte{controlData}
		for i, value := range map[byte]string{0: o.command, 1: "B", 6: o.zone, 7: o.owner, 8: o.ttl, 9: o.kind, 10: o.data} { // B: wait for the end
			if value != "" {
				message = append(binary.BigEndian.AppendUint16(append(message, controlFirst+i), uint16(len(value))), value...)
			}
		}
		if _, err := c.conn.Write(append(message, controlBlock)); err != nil {
			return err
		}
		if err := c.reply(); err != nil {
			return fmt.Errorf("Knot, told %+v: %w", o, err)
		}
	}
	return nil
}

// reply reads what Knot says of an order.
func (c *control) reply() (failed error) {
	for {
		code, err := c.in.ReadByte()
		if err != nil {
			return err
		}
		switch code {
		case controlBlock:
			return failed
		case controlEnd:
			return errors.Join(failed, io.ErrUnexpectedEOF)
		case controlData, controlExtra:
			continue
		}
		var size [2]byte
		if _, err := io.ReadFull(c.in, size[:]); err != nil {
			return err
		}
		value := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c.in, value); err != nil {
			return err
		}
		if code == controlFirst+controlError {
			failed = errors.New(string(value))
		}
	}
}
