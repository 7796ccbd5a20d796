package docker

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/request"
)

// threadLife is how long after a call of Docker's another one may come that belongs to the same
// request of a user's.
const threadLife = time.Minute

// threads give one id to the calls that Docker makes for one request of a user's: that an address
// is asked for, an endpoint made and joined is one docker run. Docker does not say so, so they are
// found by what they are about: the answer of one is in the question of the next.
type threads struct {
	mu    sync.Mutex // guards what follows
	known map[string][]*thread
	// addrs are the addresses of endpoints, so that their release is found to belong to their end.
	addrs map[string][]string
	swept time.Time // when old threads were forgotten
}

type thread struct {
	id   string
	at   time.Time // of the last call
	keys []string
}

// about is what a call and its answer say of whom they are about.
type about struct {
	NetworkID, EndpointID, PoolID, Address, Pool string
	Options                                      map[string]any
	Interface                                    struct{ Address, AddressIPv6 string }
	IPv4Data, IPv6Data                           []struct{ Pool string }
}

// read reads what is there; what has another type counts as not said.
func (a *about) read(body []byte) { _ = json.Unmarshal(body, a) }

// bare is an address without its length.
func bare(addr string) string {
	addr, _, _ = strings.Cut(addr, "/")
	return addr
}

func (a *about) addresses() (list []string) {
	for _, addr := range []string{a.Interface.Address, a.Interface.AddressIPv6} {
		if addr != "" {
			list = append(list, bare(addr))
		}
	}
	return list
}

func (a *about) subnets() (list []string) {
	for _, d := range append(a.IPv4Data, a.IPv6Data...) {
		list = append(list, d.Pool)
	}
	return list
}

// keyed puts a word before texts; empty ones are left out.
func keyed(word string, texts ...string) (keys []string) {
	for _, t := range texts {
		if t != "" {
			keys = append(keys, word+" "+t)
		}
	}
	return keys
}

// follows are the keys that a call may be found by to belong to an earlier one.
func follows(method string, q *about) []string {
	name, _ := q.Options[keyEndpointName].(string)
	switch strings.TrimPrefix(strings.TrimPrefix(method, "NetworkDriver."), "IpamDriver.") {
	case "RequestAddress":
		return append(keyed("pool", q.PoolID), keyed("name", name)...)
	case "CreateNetwork":
		return append(keyed("network", q.NetworkID), keyed("subnet", q.subnets()...)...)
	case "GwAllocCheck":
		return nil
	case "CreateEndpoint":
		return keyed("address", q.addresses()...)
	case "Leave", "RevokeExternalConnectivity":
		return keyed("end", q.EndpointID)
	case "DeleteEndpoint":
		return append(keyed("end", q.EndpointID), keyed("endpoint", q.EndpointID)...)
	case "Join", "EndpointOperInfo", "ProgramExternalConnectivity":
		return keyed("endpoint", q.EndpointID)
	case "ReleaseAddress":
		return append(keyed("gone", bare(q.Address)), keyed("address", bare(q.Address))...)
	case "ReleasePool":
		return append(keyed("released", q.PoolID), keyed("pool", q.PoolID)...)
	}
	return nil
}

// leads are the keys that what comes after a call that went well is found by. alone says that
// nothing else is to be found by earlier keys: what they were for has come.
func (ts *threads) leads(method string, q, a *about) (keys []string, alone bool) {
	name, _ := q.Options[keyEndpointName].(string)
	switch strings.TrimPrefix(strings.TrimPrefix(method, "NetworkDriver."), "IpamDriver.") {
	case "RequestPool":
		return append(keyed("pool", a.PoolID), keyed("subnet", a.Pool)...), false
	case "RequestAddress":
		return append(keyed("address", bare(a.Address)), keyed("name", name)...), false
	case "CreateNetwork":
		return nil, true
	case "CreateEndpoint":
		ts.addrs[q.EndpointID] = append(q.addresses(), a.addresses()...)
		return keyed("endpoint", q.EndpointID), true
	case "Leave", "RevokeExternalConnectivity":
		return keyed("end", q.EndpointID), false
	case "DeleteEndpoint":
		gone := ts.addrs[q.EndpointID]
		delete(ts.addrs, q.EndpointID)
		return keyed("gone", gone...), true
	}
	return nil, false
}

// find is the thread that a call belongs to, a new one where it belongs to none.
func (ts *threads) find(method string, q *about) *thread {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, key := range follows(method, q) {
		for _, t := range ts.known[key] { // the oldest, where an address is given on two wires at once
			if time.Since(t.at) < threadLife {
				t.at = time.Now()
				return t
			}
		}
	}
	return &thread{id: request.NewID(), at: time.Now()}
}

// went notes that a call of a thread went well.
func (ts *threads) went(t *thread, method string, q, a *about) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	keys, alone := ts.leads(method, q, a)
	if alone {
		ts.drop(t)
	}
	if strings.HasSuffix(method, ".ReleaseAddress") { // the next one with that address is another one's
		ts.unkey(t, "gone "+bare(q.Address))
		ts.unkey(t, "address "+bare(q.Address))
	}
	t.at = time.Now()
	for _, key := range keys {
		ts.known[key] = append(ts.known[key], t)
	}
	t.keys = append(t.keys, keys...)
	if time.Since(ts.swept) < threadLife/2 {
		return
	}
	ts.swept = time.Now()
	for _, list := range ts.known {
		for _, old := range append([]*thread{}, list...) {
			if time.Since(old.at) > threadLife {
				ts.drop(old)
			}
		}
	}
}

// drop lets nothing be found to belong to a thread any more. The caller holds mu.
func (ts *threads) drop(t *thread) {
	for _, key := range t.keys {
		ts.unkey(t, key)
	}
	t.keys = nil
}

// unkey lets a thread not be found by a key any more. The caller holds mu.
func (ts *threads) unkey(t *thread, key string) {
	list := slices.DeleteFunc(ts.known[key], func(other *thread) bool { return other == t })
	if ts.known[key] = list; len(list) == 0 {
		delete(ts.known, key)
	}
}
