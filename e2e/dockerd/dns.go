package dockerd

import (
	"encoding/binary"
	"fmt"
	"net"
)

// Answer is the address that ServeDNS gives for every name.
const Answer = "203.0.113.53"

// ServeDNS answers every A query at 127.0.0.1:53 in the host with Answer, until the
// returned function is called.
func (h *Host) ServeDNS() (stop func(), err error) {
	var conn net.PacketConn
	if err := h.Inside(func() error {
		conn, err = net.ListenPacket("udp4", "127.0.0.1:53")
		return err
	}); err != nil {
		return nil, fmt.Errorf("DNS server: %w", err)
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := answerDNS(buf[:n]); answer != nil {
				conn.WriteTo(answer, from)
			}
		}
	}()
	return func() { conn.Close() }, nil
}

// answerDNS makes the reply to a query with one question (RFC 1035 section 4):
// Answer for type A, no records for any other.
func answerDNS(q []byte) []byte {
	end := 12
	for end < len(q) && q[end] != 0 {
		end += int(q[end]) + 1
	}
	end += 5 // the root label, type and class
	if end > len(q) {
		return nil
	}
	a := append([]byte(nil), q[:end]...)
	a[2], a[3] = 0x81, 0x80 // a response, recursion desired and available
	clear(a[4:12])
	a[5] = 1 // questions
	if binary.BigEndian.Uint16(q[end-4:]) != 1 {
		return a
	}
	a[7] = 1                                               // answers
	a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4) // the question's name, A, IN, 60 s, 4 bytes
	return append(a, net.ParseIP(Answer).To4()...)
}
