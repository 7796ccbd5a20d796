package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/store"
)

// wireModel is what the addresses of a wire are, as plain as can be.
type wireModel struct {
	docker    map[string]string // address -> pool by which Docker has it
	endpoints map[string]string // address -> endpoint
	reserved  map[string]string // address -> name
}

// Random calls of Docker's and an operator's, restarts in between, against a model that
// is a few maps: no address is ever had by two, what is had is had after a restart, and
// only what is free is refused to nobody.
func TestAgainstModel(t *testing.T) {
	b := newBench(t)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		key := fmt.Sprintf("wire%d", round)
		var pools []string
		for i, s := range []subnet{
			{pool: "10.0.0.0/27", rng: "10.0.0.0/28", gateway: "10.0.0.30"},
			{pool: "10.0.0.0/28", gateway: "10.0.0.14", aux: []string{"10.0.0.3"}},
			{pool: "fd00::/124"},
		} {
			pools = append(pools, b.mustNetwork(fmt.Sprintf("n%d-%d", round, i), key, lan.Policy{NoACD: true, Grace: -1}, s)...)
		}
		m := wireModel{map[string]string{}, map[string]string{}, map[string]string{}}
		fixed := []string{"10.0.0.30", "10.0.0.14", "10.0.0.3"}
		networkOf := func(pool string) *lan.Network { return b.nets[fmt.Sprintf("n%d-%d", round, slices.Index(pools, pool))] }
		got := func(pool, addr string) {
			if by, ok := m.docker[addr]; ok {
				rt.Fatalf("%s given by %s, and by %s before", addr, pool, by)
			}
			if slices.Contains(fixed, addr) {
				rt.Fatalf("%s is a gateway's or an auxiliary address", addr)
			}
			m.docker[addr] = pool
		}
		some := func(of map[string]string, what string) string {
			if len(of) == 0 {
				rt.Skip("none")
			}
			keys := make([]string, 0, len(of))
			for k := range of {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			return rapid.SampledFrom(keys).Draw(rt, what)
		}
		free := func(pool string) (list []string) {
			v6 := pool == pools[2]
			run := b.place(pool).run
			for a := run.First; run.Contains(a); a = a.Next() {
				text := a.String()
				if _, reserved := m.reserved[text]; m.docker[text] == "" && !reserved && !slices.Contains(fixed, text) && a.Is6() == v6 {
					list = append(list, text)
				}
			}
			return list
		}
		rt.Repeat(map[string]func(*rapid.T){
			"request": func(rt *rapid.T) {
				pool := rapid.SampledFrom(pools).Draw(rt, "pool")
				name := rapid.SampledFrom([]string{"", "", "web", "db"}).Draw(rt, "name")
				can := free(pool)
				addr, err := b.ask(pool, "", name)
				reservedFor := name != "" && slices.ContainsFunc([]string{addr}, func(a string) bool { return m.reserved[a] == name })
				switch {
				case err != nil && len(can) > 0:
					rt.Fatalf("refused, and %v are free: %v", can, err)
				case err != nil:
				case m.reserved[addr] != "" && !reservedFor:
					rt.Fatalf("%s is reserved for %s, and %q got it", addr, m.reserved[addr], name)
				default:
					got(pool, addr)
				}
			},
			"request this": func(rt *rapid.T) {
				pool := rapid.SampledFrom(pools[:2]).Draw(rt, "pool")
				addr := fmt.Sprintf("10.0.0.%d", rapid.IntRange(1, 14).Draw(rt, "last byte"))
				_, has := m.docker[addr]
				name, reserved := m.reserved[addr]
				blocked := has || slices.Contains(fixed, addr) || reserved && name == ""
				_, err := b.ask(pool, addr, "")
				if blocked != (err != nil) {
					rt.Fatalf("%s: %v; had %v, reserved for %q", addr, err, has, name)
				}
				if err == nil {
					got(pool, addr)
				}
			},
			"endpoint": func(rt *rapid.T) {
				addr := some(m.docker, "address")
				n := networkOf(m.docker[addr])
				e := endpointAt(n, addr, "ep"+addr)
				ops, err := b.Assign(n, key, e, e.MAC, false)
				if err == nil {
					err = b.db.Write(append(ops, store.PutEndpoint(e))...)
				}
				if err != nil {
					rt.Fatal(err)
				}
				m.endpoints[addr] = e.ID
			},
			"endpoint goes": func(rt *rapid.T) {
				addr := some(m.endpoints, "address")
				n := networkOf(m.docker[addr])
				ops := b.Leave(n, key, endpointAt(n, addr, m.endpoints[addr]))
				if err := b.db.Write(append(ops, store.DeleteEndpoint(m.endpoints[addr]))...); err != nil {
					rt.Fatal(err)
				}
				delete(m.endpoints, addr)
			},
			"release": func(rt *rapid.T) {
				addr := some(m.docker, "address")
				if m.endpoints[addr] != "" {
					rt.Skip("Docker removes the endpoint first")
				}
				b.give(m.docker[addr], addr)
				delete(m.docker, addr)
			},
			"reserve": func(rt *rapid.T) {
				addr := fmt.Sprintf("10.0.0.%d", rapid.IntRange(1, 14).Draw(rt, "last byte"))
				name := rapid.SampledFrom([]string{"", "web", "cache"}).Draw(rt, "name")
				_, has := m.docker[addr]
				_, reserved := m.reserved[addr]
				err := b.Reserve(pools[0], netip.MustParseAddr(addr), name, "")
				if blocked := has && !reserved || slices.Contains(fixed, addr); blocked != (err != nil) {
					rt.Fatalf("reserve %s: %v", addr, err)
				}
				if err == nil {
					m.reserved[addr] = name
				}
			},
			"unreserve": func(rt *rapid.T) {
				addr := some(m.reserved, "address")
				_, has := m.docker[addr]
				err := b.Release(pools[0], netip.MustParseAddr(addr))
				if has != (err != nil) {
					rt.Fatalf("release of reserved %s: %v, had %v", addr, err, has)
				}
				if err == nil {
					delete(m.reserved, addr)
				}
			},
			"restart": func(rt *rapid.T) {
				if rapid.IntRange(0, 9).Draw(rt, "now") != 0 {
					rt.Skip("not now")
				}
				b.restart()
				for addr, id := range m.endpoints {
					n := networkOf(m.docker[addr])
					if _, err := b.Assign(n, key, endpointAt(n, addr, id), "", true); err != nil {
						rt.Fatal(err)
					}
				}
			},
			"": func(rt *rapid.T) {
				b.mu.Lock()
				defer b.mu.Unlock()
				sp := b.spaces[key]
				for addr := range m.docker {
					if !sp.set.Taken(netip.MustParseAddr(addr)) {
						rt.Fatalf("Docker has %s, and it is free", addr)
					}
				}
				if got, want := len(sp.users)+len(sp.handed), len(m.docker); got != want {
					rt.Fatalf("%d addresses are held, Docker has %d", got, want)
				}
			},
		})
	})
}

func endpointAt(n *lan.Network, addr, id string) *lan.Endpoint {
	e := &lan.Endpoint{ID: id, NetworkID: n.ID, MAC: "02:00:00:00:00:01"}
	a := netip.MustParseAddr(addr)
	p := netip.PrefixFrom(a, a.BitLen())
	if a.Is4() {
		e.IPv4 = p
	} else {
		e.IPv6 = p
	}
	return e
}

func (b *bench) place(id string) *place {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pools[id]
}
