//go:build !linux

package probe

import "net"

// burst sends messages, one by one.
func burst(conn *net.UDPConn, messages [][]byte) error {
	for _, m := range messages {
		if _, err := conn.Write(m); err != nil {
			return err
		}
	}
	return nil
}
