// Package chaos says what must be true of a host on which lanyard serves Docker, whatever
// was killed on it: it compares what Docker, lanyard and the kernel have.
package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Sh runs a script on a host, and returns what it prints.
type Sh func(ctx context.Context, script string) (string, error)

// View is what a host has.
type View struct {
	Containers []container
	Endpoints  []endpoint
	Networks   []network
	Addresses  []address
	Leases     []lease
	Repair     struct {
		Steps []struct{ Do, What, Why string }
	}
	Links []kernelLink
	// Inside are the links of each running container, by its ID.
	Inside map[string][]kernelLink
}

type (
	container struct {
		ID, Name string
		State    struct {
			Status, Error string
			Pid           int
			StartedAt     time.Time
		}
		HostConfig      struct{ RestartPolicy struct{ Name string } }
		NetworkSettings struct {
			Networks map[string]struct{ NetworkID, EndpointID, MacAddress, IPAddress string }
		}
	}
	endpoint struct {
		ID        string `json:"id"`
		NetworkID string `json:"network_id"`
		MAC       string `json:"mac"`
		IPv4      string `json:"ipv4"`
		State     string `json:"state"`
		Kind      string `json:"kind"`
		Parent    string `json:"parent"`
	}
	network struct {
		ID         string `json:"id"`
		ParentLink string `json:"parent_link"`
		Made       bool   `json:"made"`
		HostAccess bool   `json:"host_access"`
		Endpoints  int    `json:"endpoints"`
		Problem    string `json:"problem"`
	}
	address struct {
		Address  string    `json:"address"`
		State    string    `json:"state"`
		Endpoint string    `json:"endpoint"`
		Wire     string    `json:"wire"`
		Since    time.Time `json:"since"`
	}
	lease struct {
		ID       string `json:"id"`
		State    string `json:"state"`
		Endpoint string `json:"endpoint"`
	}
	kernelLink struct {
		Name  string `json:"ifname"`
		MAC   string `json:"address"`
		Flags []string
		Kind  struct {
			Kind string `json:"info_kind"`
		} `json:"linkinfo"`
		Address []struct{ Local string } `json:"addr_info"`
	}
)

// look prints all that View has, one JSON document a line with a word before it. One script,
// since a script takes a guest longer than what it does.
const look = `
say() { printf '%s ' "$1"; shift; "$@" | tr -d '\n'; echo; }
ids=$(docker ps -aq --no-trunc)
if [ -n "$ids" ]; then say containers docker inspect $ids; fi
say endpoints lanyard endpoint ls --json
say networks lanyard network ls --json
say addresses lanyard address ls --json
say leases lanyard lease ls --json
say repair lanyard repair --dry-run --json
say links ip -j -d addr show
docker ps -q --no-trunc | while read id; do
	# What has ended meanwhile, or waits to be restarted, has no process to look into.
	pid=$(docker inspect -f '{{.State.Pid}}' $id) && [ "$pid" -gt 0 ] && say inside:$id nsenter -t $pid -n ip -j -d addr show || true
done`

// Look reads what a host has.
func Look(ctx context.Context, sh Sh) (*View, error) {
	out, err := sh(ctx, look)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	v := &View{Inside: map[string][]kernelLink{}}
	for line := range strings.Lines(out) {
		what, doc, _ := strings.Cut(strings.TrimSpace(line), " ")
		var into any
		switch id, inside := strings.CutPrefix(what, "inside:"); {
		case inside:
			var links []kernelLink
			if err := json.Unmarshal([]byte(doc), &links); err != nil {
				continue // it has just ended
			}
			v.Inside[id] = links
			continue
		case what == "containers":
			into = &v.Containers
		case what == "endpoints":
			into = &v.Endpoints
		case what == "networks":
			into = &v.Networks
		case what == "addresses":
			into = &v.Addresses
		case what == "leases":
			into = &v.Leases
		case what == "repair":
			into = &v.Repair
		case what == "links":
			into = &v.Links
		default:
			continue // a word of Docker's
		}
		if err := json.Unmarshal([]byte(doc), into); err != nil {
			return nil, fmt.Errorf("%s: %w: %.200s", what, err, doc)
		}
	}
	return v, nil
}

// Problems are what is not as it must be, in words; none when all is well. It is for a host
// at rest: while a container starts or ends, what Docker says is not what there is.
func (v *View) Problems() (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	ours := map[string]bool{}
	for _, n := range v.Networks {
		ours[n.ID] = true
		if n.Problem != "" {
			bad("network %.12s: %s", n.ID, n.Problem)
		}
	}
	known := map[string]endpoint{}
	for _, e := range v.Endpoints {
		known[e.ID] = e
		if e.State != "joined" {
			bad("endpoint %.12s is %s", e.ID, e.State)
		}
	}
	for _, c := range v.Containers {
		policy := c.HostConfig.RestartPolicy.Name
		// A dockerd that is killed while it waits to restart a container may leave it
		// "restarting" for ever, without asking anybody for anything.
		stuck := c.State.Status == "restarting" && c.State.Error == ""
		// "dead" and "removing" is one whose removal was cut off.
		stuck = stuck || c.State.Status == "dead" || c.State.Status == "removing"
		// Killed while it made a container's task, dockerd leaves it with the runtime, which
		// then refuses each start.
		stuck = stuck || slices.ContainsFunc(leftovers, func(w string) bool { return strings.Contains(c.State.Error, w) })
		if wanted := policy == "always" || policy == "unless-stopped"; wanted && c.State.Status != "running" && !stuck && !c.State.StartedAt.IsZero() {
			bad("container %s has restart policy %s and is %s: %s", c.Name, policy, c.State.Status, c.State.Error)
		}
		if c.State.Status != "running" {
			continue
		}
		want := 0
		for name, n := range c.NetworkSettings.Networks {
			if !ours[n.NetworkID] {
				continue
			}
			if n.EndpointID == "" {
				bad("container %s runs, and %s it from %s", c.Name, Detached, name)
				continue
			}
			want++
			e, ok := known[n.EndpointID]
			if !ok {
				bad("container %s is on %s with endpoint %.12s, which lanyard does not know", c.Name, name, n.EndpointID)
				continue
			}
			delete(known, n.EndpointID)
			if !v.hasLink(c.ID, e) {
				bad("container %s has no link with %s and MAC address %s, up: %+v", c.Name, e.IPv4, e.MAC, v.Inside[c.ID])
			}
		}
		have := 0
		for _, l := range v.Inside[c.ID] {
			if isChild(l) {
				have++
			}
		}
		if have != want {
			bad("container %s has %d links of macvlan or ipvlan, and is on %d networks of lanyard's", c.Name, have, want)
		}
	}
	for id := range known {
		bad("endpoint %.12s is on record, and no running container has it", id)
	}
	problems = append(problems, v.linkProblems()...)
	problems = append(problems, v.addressProblems()...)
	for _, s := range v.Repair.Steps {
		bad("to repair: %s %s: %s", s.Do, s.What, s.Why)
	}
	return problems
}

// leftovers are what Docker says of a container whose task is still with the runtime, since
// Docker was killed while it made it.
var leftovers = []string{"already exists", "file exists", "id already in use"}

// Detached is in the words of a problem that is Docker's alone: it has taken a running
// container off a network that it lists it on.
const Detached = "Docker has detached"

func isChild(l kernelLink) bool { return l.Kind.Kind == "macvlan" || l.Kind.Kind == "ipvlan" }

func (v *View) hasLink(id string, e endpoint) bool {
	addr, _, _ := strings.Cut(e.IPv4, "/")
	return slices.ContainsFunc(v.Inside[id], func(l kernelLink) bool {
		return l.Kind.Kind == e.Kind && (e.MAC == "" || l.MAC == e.MAC) && slices.Contains(l.Flags, "UP") &&
			(addr == "" || slices.ContainsFunc(l.Address, func(a struct{ Local string }) bool { return a.Local == addr }))
	})
}

// linkProblems are links of ours that ought not to be on the host.
func (v *View) linkProblems() (problems []string) {
	made, shims := map[string]bool{}, 0
	for _, n := range v.Networks {
		if n.Made {
			made[n.ParentLink] = true
		}
		if n.HostAccess {
			shims++
		}
	}
	for _, l := range v.Links {
		switch {
		case strings.HasPrefix(l.Name, "ly-"), strings.HasPrefix(l.Name, "lyp-"):
			problems = append(problems, "link left on the host: "+l.Name)
		case strings.HasPrefix(l.Name, "lyh-"):
			shims--
		case l.Kind.Kind == "vlan" && !made[l.Name]:
			problems = append(problems, "sub-interface of no network: "+l.Name)
		}
	}
	if shims < 0 {
		problems = append(problems, fmt.Sprintf("%d shims too many", -shims))
	}
	return problems
}

// addressProblems are addresses and leases that are held for nobody.
func (v *View) addressProblems() (problems []string) {
	has := map[string]bool{}
	for _, e := range v.Endpoints {
		has[e.ID] = true
	}
	for _, a := range v.Addresses {
		// What Docker was killed over is taken back when no container has come for 5 minutes,
		// and 2 after a start of lanyard's.
		starts := a.State == "starting" && time.Since(a.Since) > 8*time.Minute
		if (a.State == "used" || starts) && !has[a.Endpoint] {
			problems = append(problems, fmt.Sprintf("address %s of %s is %s, and no container has it", a.Address, a.Wire, a.State))
		}
	}
	for _, l := range v.Leases {
		if l.State == "bound" && !has[l.Endpoint] {
			problems = append(problems, fmt.Sprintf("lease %s is bound, and no container has it", l.ID))
		}
	}
	return problems
}

// Twice are the addresses that more than one container has on the same parent, on all of
// these hosts.
func Twice(views ...*View) (problems []string) {
	whose := map[string][]string{}
	for i, v := range views {
		for _, c := range v.Containers {
			if c.State.Status != "running" {
				continue
			}
			for _, n := range c.NetworkSettings.Networks {
				for _, e := range v.Endpoints {
					if e.ID == n.EndpointID && e.IPv4 != "" {
						at := e.Parent + " " + e.IPv4
						whose[at] = append(whose[at], fmt.Sprintf("%s of host %d", c.Name, i+1))
					}
				}
			}
		}
	}
	for _, at := range slices.Sorted(maps.Keys(whose)) {
		if len(whose[at]) > 1 {
			problems = append(problems, fmt.Sprintf("%s is had by %v", at, whose[at]))
		}
	}
	return problems
}
