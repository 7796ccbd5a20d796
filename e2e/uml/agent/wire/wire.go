// Package wire is what the lab and the agent in a guest say to each other: messages
// of one byte kind, four bytes length and data.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Port is where agents listen.
const Port = 7070

// The kinds of messages.
const (
	Script byte = iota // first: a script for sh -c
	Stdin              // empty: the end of it
	Stdout
	Stderr
	Exit // last: one byte, the exit code
)

const maxData = 1 << 20

// Conn is one side of a conversation. Writes may come at the same time.
type Conn struct {
	rw io.ReadWriter
	mu sync.Mutex // guards writing
}

// New speaks over rw.
func New(rw io.ReadWriter) *Conn { return &Conn{rw: rw} }

// Read reads a message, and blocks until there is one.
func (c *Conn) Read() (kind byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.rw, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxData {
		return 0, nil, fmt.Errorf("message of %d bytes", n)
	}
	data = make([]byte, n)
	_, err = io.ReadFull(c.rw, data)
	return head[0], data, err
}

// Write sends a message.
func (c *Conn) Write(kind byte, data []byte) error {
	msg := make([]byte, 5, 5+len(data))
	msg[0] = kind
	binary.BigEndian.PutUint32(msg[1:], uint32(len(data)))
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.rw.Write(append(msg, data...))
	return err
}

// Writer writes everything as messages of one kind.
func (c *Conn) Writer(kind byte) io.Writer { return writer{c, kind} }

type writer struct {
	c    *Conn
	kind byte
}

func (w writer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), maxData)
		if err := w.c.Write(w.kind, rest[:n]); err != nil {
			return len(p) - len(rest), err
		}
		rest = rest[n:]
	}
	return len(p), nil
}
