package uml

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Capture is a look at the segment's frames.
type Capture struct {
	cmd *exec.Cmd

	mu    sync.Mutex // guards lines
	lines []string
	done  chan struct{}
}

// Capture starts tcpdump on the segment with a filter; every frame that crosses it is
// seen, with its tags.
func (l *Lab) Capture(ctx context.Context, filter string) (*Capture, error) {
	c := &Capture{done: make(chan struct{})}
	c.cmd = exec.CommandContext(ctx, "nsenter", "--net="+l.nsPath(), "tcpdump", "-i", "seg", "-e", "-n", "-l", "-U", "--immediate-mode", filter)
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var errs bytes.Buffer
	started := make(chan struct{})
	c.cmd.Stderr = writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("listening on")) {
			close(started)
		}
		return errs.Write(p)
	})
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("tcpdump: %w", err)
	}
	go func() {
		defer close(c.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			c.mu.Lock()
			c.lines = append(c.lines, lines.Text())
			c.mu.Unlock()
		}
	}()
	select {
	case <-started:
		return c, nil
	case <-c.done:
		c.cmd.Wait()
		return nil, fmt.Errorf("tcpdump: %s", errs.String())
	case <-time.After(10 * time.Second):
		c.cmd.Process.Kill()
		c.cmd.Wait()
		return nil, fmt.Errorf("tcpdump does not start")
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Lines are the frames seen up to now, as tcpdump -e prints them.
func (c *Capture) Lines() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.lines...)
}

// Stop ends the capture and returns all frames.
func (c *Capture) Stop() []string {
	time.Sleep(300 * time.Millisecond) // what is on its way
	c.cmd.Process.Signal(syscall.SIGINT)
	<-c.done
	c.cmd.Wait()
	return c.Lines()
}

// Tags are the VLAN ids of a frame, the outer one first; none for an untagged frame.
func Tags(line string) []string {
	var tags []string
	for rest := line; ; {
		_, after, ok := strings.Cut(rest, "vlan ")
		if !ok {
			return tags
		}
		id, more, _ := strings.Cut(after, ",")
		tags = append(tags, id)
		rest = more
	}
}
