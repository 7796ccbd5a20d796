package engine

import "sync"

// bin removes links in the background. The kernel takes some 16 ms to remove a
// link, or any number of links at once, so what comes while a removal runs is
// removed by the next one together. A link in the bin is named by no record any
// more, so what a crash leaves in it is removed by the next start.
type bin struct {
	remove func(names []string) // required

	mu    sync.Mutex // guards what follows
	names []string
	busy  chan struct{} // closed when the bin is empty; nil if it is
}

// put adds a link and returns at once.
func (b *bin) put(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names = append(b.names, name)
	if b.busy == nil {
		b.busy = make(chan struct{})
		go b.empty()
	}
}

func (b *bin) empty() {
	for {
		b.mu.Lock()
		names := b.names
		b.names = nil
		if len(names) == 0 {
			close(b.busy)
			b.busy = nil
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		b.remove(names)
	}
}

// wait returns when all that was put in before the call is removed. It reports
// whether there was anything.
func (b *bin) wait() bool {
	b.mu.Lock()
	busy := b.busy
	b.mu.Unlock()
	if busy == nil {
		return false
	}
	<-busy
	return true
}
