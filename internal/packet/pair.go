package packet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"
)

// ErrClosed comes when a wire was closed, or its Run has ended.
var ErrClosed = errors.New("wire is closed")

// PairConfig says what a Pair hears. All fields are required but Tap.
type PairConfig struct {
	// Probe is heard all the time, Tap while something is under way. Tap's Index 0 is
	// none; equal to Probe, the one socket hears all.
	Probe, Tap Link
	// ListenProbe and ListenTap open the sockets.
	ListenProbe, ListenTap func(Link) (*Socket, error)
	// MaxFrame is how much of a frame is read, in bytes.
	MaxFrame int
	// Hear gets each frame, from two goroutines perhaps at the same time, and only until
	// it returns. It must not block.
	Hear func(frame []byte)
}

// Pair is a wire as heard from a child that all share, and from its parent, which hears
// what comes for addresses that no child has. The parent costs all of its traffic a
// little, so it is heard only between Enter and Leave. Its methods may be called at the
// same time.
type Pair struct {
	// Probe is the probe link's socket.
	Probe *Socket

	conf    PairConfig
	started chan struct{} // closed when Run reads
	done    chan struct{} // closed by Close
	readers errgroup.Group

	mu       sync.Mutex // guards what follows
	tap      *Socket    // its reader closes it; nil: nothing is under way
	underway int
	closed   bool
}

// OpenPair opens the probe link's socket; it starts nothing. The namespaces have to stay
// open until the pair is closed.
func OpenPair(c PairConfig) (*Pair, error) {
	if c.Tap == c.Probe {
		c.Tap = Link{}
	}
	p, err := c.ListenProbe(c.Probe)
	if err != nil {
		return nil, fmt.Errorf("probe link: %w", err)
	}
	return &Pair{Probe: p, conf: c, started: make(chan struct{}), done: make(chan struct{})}, nil
}

// Close ends Run and closes the sockets. It may be called at any time; only the first
// call does something.
func (p *Pair) Close() error {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.closed = true
		close(p.done)
		p.dropTap()
	}
	p.mu.Unlock()
	if closed {
		return nil
	}
	return p.Probe.Close()
}

// Done is closed by Close.
func (p *Pair) Done() <-chan struct{} { return p.done }

// Run reads until ctx ends or the pair is closed, and returns nil then; the pair is closed
// in any case. ErrLinkGone is the probe link or the tapped parent that was removed or
// moved away. It may be called once.
func (p *Pair) Run(ctx context.Context) error {
	p.readers.Go(p.readProbe)
	close(p.started)
	select {
	case <-ctx.Done():
	case <-p.done:
	}
	return errors.Join(p.Close(), p.readers.Wait())
}

// Await waits for Run to read. The errors are ErrClosed, and what ended ctx.
func (p *Pair) Await(ctx context.Context) error {
	select {
	case <-p.started:
		return nil
	case <-p.done:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Enter has the tap heard until Leave; first reports that nothing else was under way. A
// MAC that is not nil is the one that answers come to: the parent takes frames for it as
// long, though no link may have it yet, which waits for the kernel's RTNL lock. Enter fails
// with ErrClosed, and where the tap cannot be had; then there is nothing to leave. Await
// comes before it.
func (p *Pair) Enter(mac net.HardwareAddr) (first bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false, ErrClosed
	}
	if p.conf.Tap.Index != 0 && p.tap == nil {
		tap, err := p.conf.ListenTap(p.conf.Tap)
		if err != nil {
			return false, fmt.Errorf("tap: %w", err)
		}
		p.tap = tap
		// As long as the pair is not closed there is the probe link's reader, so Run
		// waits for this one too.
		p.readers.Go(func() error { return p.readTap(tap) })
	}
	p.underway++
	if mac != nil {
		if err := p.parent().Join(mac); err != nil {
			p.leave(nil)
			return false, fmt.Errorf("tap: %w", err)
		}
	}
	return p.underway == 1, nil
}

// Leave ends what Enter began, with the same MAC. The last one closes the tap.
func (p *Pair) Leave(mac net.HardwareAddr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leave(mac)
}

// leave is Leave. The caller holds mu.
func (p *Pair) leave(mac net.HardwareAddr) {
	p.underway--
	switch {
	case p.underway == 0 && p.tap != nil:
		p.dropTap() // and what it has joined with it, and nobody waits for that
	case mac != nil:
		_ = p.parent().Leave(mac) // it fails where the link or the socket is gone, and all with it
	}
}

// parent is the socket that hears the parent. The caller holds mu.
func (p *Pair) parent() *Socket {
	if p.tap != nil {
		return p.tap
	}
	return p.Probe
}

// Underway is how many have entered and not left, and whether the tap is open for them.
func (p *Pair) Underway() (n int, tapped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.underway, p.tap != nil
}

func (p *Pair) readProbe() error {
	err := p.read(p.Probe)
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return errors.Join(fmt.Errorf("probe link: %w", err), p.Close())
}

// readTap reads a tap until it is dropped, and closes it, which takes an RCU grace
// period (some 20 ms) that nobody need wait for.
func (p *Pair) readTap(tap *Socket) error {
	err := p.read(tap)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return tap.Close()
	}
	return errors.Join(fmt.Errorf("tap: %w", err), tap.Close(), p.Close())
}

// dropTap has the tap's reader end. The caller holds mu.
func (p *Pair) dropTap() {
	if p.tap != nil {
		p.tap.Stop()
		p.tap = nil
	}
}

// read hears the frames of a socket until there are no more.
func (p *Pair) read(s *Socket) error {
	buf := make([]byte, p.conf.MaxFrame)
	for {
		n, err := s.Read(buf)
		if err != nil {
			return err
		}
		p.conf.Hear(buf[:n])
	}
}
