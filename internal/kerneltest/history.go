package kerneltest

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// History is who was given which address and gave it back, and between which moments. Its methods may be called at the same
// time.
type History struct {
	begin time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
}

// holding is that a host takes an address, or gives it back.
type holding struct {
	addr, host string
	back       bool
}

// NewHistory begins a history.
func NewHistory() *History { return &History{begin: time.Now()} }

// Now is the moment, for Took and Gave.
func (h *History) Now() time.Duration { return time.Since(h.begin) }

// Took notes that a client of a host asked for an address at a moment, and has been given this one.
func (h *History) Took(client int, host, addr string, called time.Duration) {
	h.note(client, holding{addr, host, false}, called)
}

// Gave notes that a client of a host began to give an address back at a moment, and has given it back.
func (h *History) Gave(client int, host, addr string, called time.Duration) {
	h.note(client, holding{addr, host, true}, called)
}

func (h *History) note(client int, what holding, called time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: what, Call: int64(called), Return: int64(h.Now())})
}

// Len is how much happened.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// oneHolder is what may happen to an address: nobody has it, or one host has it.
var oneHolder = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		by := map[string][]porcupine.Operation{}
		for _, op := range history {
			addr := op.Input.(holding).addr
			by[addr] = append(by[addr], op)
		}
		for _, p := range by {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		h := input.(holding)
		if h.back {
			return state.(string) == h.host, ""
		}
		return state.(string) == "", h.host
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
}

// Check fails the test where an address was two hosts' at a time: where no order of what happened, each thing at some moment
// between its beginning and its end, explains it. what says how to repeat it.
func (h *History) Check(t testing.TB, what string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch result, info := porcupine.CheckOperationsVerbose(oneHolder, h.ops, time.Minute); result {
	case porcupine.Illegal:
		file, err := os.CreateTemp("", "lanyard-history-*.html")
		if err == nil {
			err = porcupine.Visualize(oneHolder, info, file)
		}
		t.Errorf("an address was given twice: %s; see %s, %v", what, file.Name(), err)
	case porcupine.Unknown:
		t.Error("the history was not checked within a minute")
	}
}
