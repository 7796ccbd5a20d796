// Package wire is what the lab and the agent in a guest say to each other: messages
// of one byte kind, four bytes length and data.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Where who listens, on the management network: the agents in their guests at Port and, for
// the API of the guest's Docker Engine, at EnginePort; the lab at Gateway, CLIPort, for the
// command lines of docker that guests are told to run.
const (
	Port       = 7070
	EnginePort = 7071
	CLIPort    = 7072
	Gateway    = "10.99.0.1"
)

// The kinds of messages.
const (
	Script byte = iota // first: what to run
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

// Serve runs the command that the other side's script asks for, its streams connected, and
// ends its process group when the other side hangs up.
func Serve(conn io.ReadWriter, command func(script string) (*exec.Cmd, error)) error {
	c := New(conn)
	kind, script, err := c.Read()
	if err != nil {
		return err
	}
	if kind != Script {
		return fmt.Errorf("message %d before a script", kind)
	}
	cmd, err := command(string(script))
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout, cmd.Stderr = c.Writer(Stdout), c.Writer(Stderr)
	// What a script leaves in the background may keep its output open: do not
	// wait for that.
	cmd.WaitDelay = 300 * time.Millisecond
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return c.Write(Exit, []byte{126})
	}
	go func() {
		for {
			kind, data, err := c.Read()
			switch {
			case err != nil:
				syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				return
			case kind == Stdin && len(data) == 0:
				stdin.Close()
			case kind == Stdin:
				if _, err := stdin.Write(data); err != nil {
					stdin.Close()
				}
			}
		}
	}()
	cmd.Wait()
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		code = 137 // killed
	}
	return c.Write(Exit, []byte{byte(code)})
}

// Call has the other side run a script, and returns its exit code. stdin may be nil.
func Call(conn io.ReadWriter, script string, stdin io.Reader, stdout, stderr io.Writer) (code int, err error) {
	c := New(conn)
	if err := c.Write(Script, []byte(script)); err != nil {
		return 0, err
	}
	if stdin == nil {
		err = c.Write(Stdin, nil)
	} else {
		go func() {
			io.Copy(c.Writer(Stdin), stdin)
			c.Write(Stdin, nil)
		}()
	}
	for err == nil {
		var kind byte
		var data []byte
		if kind, data, err = c.Read(); err != nil {
			break
		}
		switch kind {
		case Stdout:
			_, err = stdout.Write(data)
		case Stderr:
			_, err = stderr.Write(data)
		case Exit:
			return int(data[0]), nil
		}
	}
	return 0, err
}
