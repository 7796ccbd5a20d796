package ipam

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/store"
)

// Migrated is what a migration moved.
type Migrated struct {
	// Taken, Idle and Reserved are how many addresses of each kind.
	Taken    int `json:"taken"`
	Idle     int `json:"idle"`
	Reserved int `json:"reserved"`
	// Others are addresses of this host's containers that another host has as well.
	Others []string `json:"others,omitempty"`
}

// segments are the segments of the wires that networks in a state are on, by the key of the
// wire.
func segments(s store.State) map[string]string {
	keys := map[string]string{}
	for _, n := range s.Networks {
		if !n.Isolated() {
			keys[n.Key] = Segment(n.Key)
		}
	}
	for _, p := range s.Pools {
		if p.Parent != "" && !strings.HasPrefix(p.Space, private("")) {
			keys[p.Space] = Segment(p.Space)
		}
	}
	return keys
}

// ToCluster claims all addresses in a state for a host of a cluster, those that rest and those
// that are reserved included, and notes in the state file that the host is in it. Where another
// host has an address that a container has here, nothing is changed, and it is in Others. The
// daemon must not run.
func ToCluster(ctx context.Context, db *store.DB, s store.State, c *cluster.Cluster) (m Migrated, err error) {
	keys := segments(s)
	ops := []store.Op{store.PutCluster(&store.Cluster{Salt: c.Salt()})}
	var list []cluster.Change
	for _, a := range s.Addresses {
		segment, ok := keys[a.Space]
		if a.State == store.Held {
			ops = append(ops, store.DeleteAddress(a.Space, a.Addr)) // another cluster's
			continue
		}
		if !ok {
			continue
		}
		cl := cluster.Claim{Segment: segment, Addr: a.Addr, Host: c.Self(), Owner: a.Owner, Name: a.Name, Source: a.Source, Since: a.Since}
		r := a.Reservation
		switch a.State {
		case store.Taken:
			cl.State = cluster.Taken
		case store.Idle:
			cl.State = cluster.Idle
		case store.Reserved:
			cl.State, cl.Owner, cl.Name = cluster.Reserved, "", ""
			r = a
		default:
			return m, fmt.Errorf("address %s on record is %q: a newer lanyard wrote it", a.Addr, a.State)
		}
		cl.Reserved = reservation(r)
		list = append(list, cluster.Change{Claim: cl})
	}
	for _, n := range s.Networks {
		for _, addr := range n.HostAddrs {
			if segment, ok := keys[n.Key]; ok {
				list = append(list, cluster.Change{Claim: cluster.Claim{Segment: segment, Addr: addr, State: cluster.Taken, Host: c.Self(), Name: "the host", Since: n.Created}})
			}
		}
	}
	// First a look, so that nothing is changed where it cannot be done.
	for part := range slices.Chunk(list, cluster.MaxChanges) {
		looked, err := c.Look(ctx, part)
		if err != nil {
			return m, err
		}
		for i, now := range looked {
			if now.State == cluster.Taken && now.Host != c.Self() && part[i].State == cluster.Taken {
				m.Others = append(m.Others, fmt.Sprintf("%s on VLAN %s is %s's", part[i].Addr, part[i].Segment, c.HostName(now.Host)))
			}
			part[i].Was = now.Was()
			if part[i].State != cluster.Taken && now.State != "" {
				part[i].Was = -1 // what is there says more
			}
		}
	}
	if len(m.Others) > 0 {
		return m, lan.Refusef(lan.ErrConflict, "%d addresses that containers have here are other hosts': %s; try: stop these containers, and again", len(m.Others), strings.Join(m.Others[:min(3, len(m.Others))], ", "))
	}
	for part := range slices.Chunk(list, cluster.MaxChanges) {
		done, err := c.Change(ctx, part)
		if err != nil {
			return m, err
		}
		for i, d := range done {
			switch {
			case !d.Won && part[i].State == cluster.Taken && d.Host != c.Self():
				return m, lan.Refusef(lan.ErrConflict, "address %s was taken by host %s meanwhile; try: again", d.Addr, c.HostName(d.Host))
			case !d.Won:
			case d.State == cluster.Taken:
				m.Taken++
			case d.State == cluster.Idle:
				m.Idle++
			default:
				m.Reserved++
			}
		}
	}
	return m, db.Write(ops...)
}

// FromCluster takes what a cluster knows of this host's addresses, and of those that rest and
// are reserved on its wires, into its state file, and notes there that the host is in no
// cluster. The claims stay: to the other hosts it is one that is silent. The daemon must not
// run.
func FromCluster(ctx context.Context, db *store.DB, s store.State, c *cluster.Cluster) (m Migrated, err error) {
	have := map[string]*store.Address{}
	ops := []store.Op{store.DeleteCluster()}
	for _, a := range s.Addresses {
		if have[a.Space+" "+a.Addr.String()] = a; a.State == store.Held {
			ops = append(ops, store.DeleteAddress(a.Space, a.Addr))
		}
	}
	for key, segment := range segments(s) {
		list, _, err := c.Claims(ctx, segment)
		if err != nil {
			return m, err
		}
		for _, cl := range list {
			rec := &store.Address{Space: key, Addr: cl.Addr, Owner: cl.Owner, Name: cl.Name, Source: cl.Source, Since: cl.Since}
			mine := have[key+" "+cl.Addr.String()]
			switch {
			case mine != nil && mine.State == store.Taken:
				m.Taken++
				continue
			case cl.State == cluster.Idle && cl.Host == c.Self():
				rec.State = store.Idle
				m.Idle++
			case cl.State == cluster.Reserved && cl.Reserved != nil:
				rec.State, rec.Name, rec.Note, rec.Owner = store.Reserved, cl.Reserved.Name, cl.Reserved.Note, ""
				m.Reserved++
			default:
				continue
			}
			if rec.Since.IsZero() {
				rec.Since = time.Now().UTC()
			}
			ops = append(ops, store.PutAddress(rec))
		}
	}
	return m, db.Write(ops...)
}
