package kerneltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Etcd is a real etcd of a test's own, on the loopback.
type Etcd struct {
	// Endpoints are the members, host:port each.
	Endpoints []string
	t         testing.TB
	args      [][]string
	members   []*exec.Cmd
	// starts are commands for the thread that etcd's members end with, and how it went.
	starts chan *exec.Cmd
	went   chan error
}

// NewEtcd starts an etcd of so many members, which ends with the test. Without the program the
// test fails: Debian's package is etcd-server.
func NewEtcd(t testing.TB, members int) *Etcd {
	t.Helper()
	e := newEtcd(t, members, "http")
	e.Wait()
	return e
}

// NewTLSEtcd is NewEtcd of one member that is asked by TLS, and of which flags say more. It
// does not wait until the member answers.
func NewTLSEtcd(t testing.TB, flags ...string) *Etcd {
	t.Helper()
	return newEtcd(t, 1, "https", flags...)
}

func newEtcd(t testing.TB, members int, scheme string, flags ...string) *Etcd {
	t.Helper()
	program, err := exec.LookPath("etcd")
	if err != nil {
		t.Fatalf("%v; try: apt-get install etcd-server", err)
	}
	e := &Etcd{t: t, members: make([]*exec.Cmd, members), starts: make(chan *exec.Cmd), went: make(chan error)}
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread
		for cmd := range e.starts {
			e.went <- cmd.Start()
		}
	}()
	dir := t.TempDir()
	ports := freePorts(t, 2*members)
	var all []string
	for i := range members {
		e.Endpoints = append(e.Endpoints, ports[2*i])
		all = append(all, fmt.Sprintf("m%d=http://%s", i, ports[2*i+1]))
	}
	for i := range members {
		client, peer := scheme+"://"+ports[2*i], "http://"+ports[2*i+1]
		e.args = append(e.args, append([]string{
			program, "--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(dir, fmt.Sprint(i)), "--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", strings.Join(all, ","), "--initial-cluster-state", "new",
			"--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap", "--log-outputs", filepath.Join(dir, fmt.Sprintf("%d.log", i)),
		}, flags...))
		e.Start(i)
	}
	t.Cleanup(func() {
		for i := range e.members {
			e.Kill(i)
		}
		close(e.starts)
		if t.Failed() {
			for i := range e.members {
				log, _ := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.log", i)))
				t.Logf("etcd %d:\n%s", i, log[max(0, len(log)-2000):])
			}
		}
	})
	return e
}

func freePorts(t testing.TB, n int) (ports []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().String())
	}
	return ports
}

// URL is what lanyard daemon --store takes.
func (e *Etcd) URL() string { return "etcd://" + strings.Join(e.Endpoints, ",") }

// Start starts a member that is not running.
func (e *Etcd) Start(i int) {
	e.t.Helper()
	cmd := exec.Command(e.args[i][0], e.args[i][1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	e.starts <- cmd
	if err := <-e.went; err != nil {
		e.t.Fatal(err)
	}
	e.members[i] = cmd
}

// Kill ends a member with SIGKILL.
func (e *Etcd) Kill(i int) {
	if cmd := e.members[i]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		e.members[i] = nil
	}
}

// Freeze stops a member where it is, and Thaw lets it go on.
func (e *Etcd) Freeze(i int) { _ = e.members[i].Process.Signal(syscall.SIGSTOP) }

// Thaw is the end of Freeze.
func (e *Etcd) Thaw(i int) { _ = e.members[i].Process.Signal(syscall.SIGCONT) }

// Wait waits until all members say that they are healthy.
func (e *Etcd) Wait() {
	e.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for _, addr := range e.Endpoints {
		for {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/health", nil)
			if err != nil {
				e.t.Fatal(err)
			}
			w, err := http.DefaultClient.Do(r)
			var text []byte
			if err == nil {
				text, _ = io.ReadAll(w.Body)
				w.Body.Close()
			}
			cancel()
			if strings.Contains(string(text), "true") {
				break
			}
			if time.Now().After(deadline) {
				e.t.Fatalf("etcd member %s is not healthy: %v %s", addr, err, text)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// What a Proxy does with what passes.
const (
	// Pass lets all through.
	Pass = iota
	// Hang keeps all, and lets it through when it passes again: late.
	Hang
	// LoseReplies lets requests through, and loses what is answered.
	LoseReplies
	// Cut ends connections, and lets none be made.
	Cut
)

// Proxy stands between a host and a TCP server, as a network that fails.
type Proxy struct {
	// Addr is where it listens, host:port.
	Addr string
	to   string
	mode atomic.Int32

	mu    sync.Mutex
	conns map[net.Conn]bool // whether an answer of it was lost
}

// NewProxy makes a proxy that passes to an address until the test ends.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), to: to, conns: map[net.Conn]bool{}}
	t.Cleanup(func() {
		l.Close()
		p.Set(Cut)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

// Set changes what it does. After LoseReplies, connections that have lost something end.
func (p *Proxy) Set(mode int32) {
	p.mode.Store(mode)
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, lost := range p.conns {
		if mode == Cut || mode == Pass && lost {
			c.Close()
		}
	}
}

func (p *Proxy) serve(c net.Conn) {
	defer c.Close()
	if p.mode.Load() == Cut {
		return
	}
	s, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer s.Close()
	p.mu.Lock()
	p.conns[c] = false
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}()
	done := make(chan error, 2)
	go func() { done <- p.copy(s, c, c, false) }()
	go func() { done <- p.copy(c, s, c, true) }()
	<-done
}

func (p *Proxy) copy(to io.Writer, from io.Reader, c net.Conn, answers bool) error {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return err
		}
		for p.mode.Load() == Hang {
			time.Sleep(time.Millisecond)
		}
		switch p.mode.Load() {
		case Cut:
			return errors.New("cut")
		case LoseReplies:
			if answers {
				p.mu.Lock()
				p.conns[c] = true
				p.mu.Unlock()
				continue
			}
		}
		p.mu.Lock()
		lost := p.conns[c]
		p.mu.Unlock()
		if lost && answers {
			return errors.New("lost")
		}
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
	}
}
