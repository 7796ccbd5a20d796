package dhcp

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Stage is what is due for a lease.
type Stage int

// The stages.
const (
	Renewing  Stage = iota // after T1: its server is asked
	Rebinding              // after T2: any server is asked
	Ended                  // the lease has ended: a new one is asked for
)

func (s Stage) String() string { return [...]string{"renew", "rebind", "end"}[s] }

// Times are when a lease is due, on the keeper's clock; lan.Infinite is never.
type Times struct{ Renew, Rebind, End time.Duration }

// TimesOf are the times of a lease that was asked for at a time on the keeper's clock.
func TimesOf(at time.Duration, l *lan.Lease) Times {
	after := func(d time.Duration) time.Duration {
		if d == lan.Infinite || at > lan.Infinite-d {
			return lan.Infinite
		}
		return at + d
	}
	return Times{after(l.Renew), after(l.Rebind), after(l.Life)}
}

// KeeperConfig is what a Keeper works with. All fields are required.
type KeeperConfig struct {
	// Now is a clock that goes on while the machine sleeps and that nobody sets
	// (CLOCK_BOOTTIME).
	Now func() time.Duration
	// Do does what is due for a lease, and returns its new times; false where there are
	// none: it is called again later. ctx ends when the lease's next stage begins, or
	// when Run's does. It is called for a lease by one goroutine at a time.
	Do func(ctx context.Context, id string, s Stage) (Times, bool)
	// Workers is how many leases are worked on at the same time.
	Workers int
}

// Keeper says when leases are due. An idle lease costs an entry in a heap: no goroutine,
// no timer, no socket. Its methods may be called at the same time.
type Keeper struct {
	c    KeeperConfig
	bell chan struct{}

	mu      sync.Mutex // guards what follows
	queue   queue
	entries map[string]*entry
	working int
}

// entry is a lease. One at work is not in the queue.
type entry struct {
	id    string
	times Times
	due   time.Duration
	at    int // in the queue; -1: at work
	again int // attempts at ending it that got nothing
	gone  bool
}

// NewKeeper makes a keeper of no leases.
func NewKeeper(c KeeperConfig) *Keeper {
	return &Keeper{c: c, bell: make(chan struct{}, 1), entries: map[string]*entry{}}
}

// Hold keeps a lease, or one that is kept at new times. It does not block.
func (k *Keeper) Hold(id string, t Times) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.entries[id]; old != nil {
		k.remove(old)
	}
	e := &entry{id: id, times: t, due: early(k.c.Now(), t.Renew)}
	k.entries[id] = e
	heap.Push(&k.queue, e)
	k.ring()
}

// Hurry makes a lease due now. It reports false for one that is not kept, or at work.
func (k *Keeper) Hurry(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.entries[id]
	if e == nil || e.at < 0 {
		return false
	}
	e.due = 0
	heap.Fix(&k.queue, e.at)
	k.ring()
	return true
}

// Drop keeps a lease no more. What is being done for it is done to the end.
func (k *Keeper) Drop(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.entries[id]; e != nil {
		k.remove(e)
	}
}

// Len is the number of leases kept.
func (k *Keeper) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.entries)
}

// remove takes an entry out. The caller holds mu.
func (k *Keeper) remove(e *entry) {
	e.gone = true
	delete(k.entries, e.id)
	if e.at >= 0 {
		heap.Remove(&k.queue, e.at)
	}
}

// early is a renewal up to a twentieth of its time earlier, so that leases that were
// granted together are not renewed together.
func early(now, renew time.Duration) time.Duration {
	if ahead := (renew - now) / 20; renew != lan.Infinite && ahead > 0 {
		return renew - rand.N(ahead)
	}
	return renew
}

// nap is how long Run sleeps at most: timers stand still while the machine sleeps, so
// after that it is up to this late.
const nap = 5 * time.Second

// Run does what is due until ctx ends, and waits for what is under way.
func (k *Keeper) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	timer := time.NewTimer(nap)
	defer timer.Stop()
	for {
		wait := k.start(ctx, &wg)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-k.bell:
		}
	}
}

// start starts what is due, and returns how long nothing else is.
func (k *Keeper) start(ctx context.Context, wg *sync.WaitGroup) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.queue) > 0 && k.working < k.c.Workers {
		e, now := k.queue[0], k.c.Now()
		if e.due > now {
			return min(e.due-now, nap)
		}
		heap.Pop(&k.queue)
		k.working++
		wg.Go(func() { k.work(ctx, e) })
	}
	if len(k.queue) == 0 {
		return 24 * time.Hour // Hold rings
	}
	return nap // a worker that ends rings
}

// stageAt is what is due at a time, and when that stage is over.
func (t Times) stageAt(now time.Duration) (s Stage, until time.Duration) {
	switch {
	case now >= t.End:
		return Ended, lan.Infinite
	case now >= t.Rebind:
		return Rebinding, t.End
	}
	return Renewing, t.Rebind
}

// work does what is due for an entry, and puts it in the queue again.
func (k *Keeper) work(ctx context.Context, e *entry) {
	stage, until := e.times.stageAt(k.c.Now())
	try := ctx
	if until != lan.Infinite {
		var cancel context.CancelFunc
		try, cancel = context.WithTimeout(ctx, until-k.c.Now())
		defer cancel()
	}
	times, ok := k.c.Do(try, e.id, stage)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.working--
	k.ring()
	if e.gone {
		return
	}
	now := k.c.Now()
	if ok {
		e.times, e.again, e.due = times, 0, early(now, times.Renew)
	} else {
		e.due = k.retry(e, now)
	}
	heap.Push(&k.queue, e)
}

const (
	// leastRetry is the least time between two attempts at a long lease (RFC 2131
	// section 4.4.5). A short one is tried more often.
	leastRetry = time.Minute
	// endRetry is the time between the first two attempts at a new lease, doubled up to
	// endRetryMax.
	endRetry    = 2 * time.Second
	endRetryMax = time.Minute
)

// retry is when to try again what got nothing: after half of the time that the stage
// still has, but at its end at the latest. The caller holds mu.
func (k *Keeper) retry(e *entry, now time.Duration) time.Duration {
	stage, until := e.times.stageAt(now)
	if stage == Ended {
		d := min(endRetry<<min(e.again, 10), endRetryMax)
		e.again++
		return now + d - rand.N(d/10)
	}
	if until == lan.Infinite {
		return now + leastRetry
	}
	left := until - now
	least := min(leastRetry, (e.times.End-e.times.Renew)/20)
	return now + min(max(left/2, least), left)
}

func (k *Keeper) ring() {
	select {
	case k.bell <- struct{}{}:
	default:
	}
}

// queue is a heap of entries, the next one first.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

func (q *queue) Push(x any) {
	e := x.(*entry)
	e.at = len(*q)
	*q = append(*q, e)
}

func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.at = -1
	return e
}
