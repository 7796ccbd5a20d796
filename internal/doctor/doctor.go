// Package doctor finds out what keeps containers from the LAN: from the kernel's modules up to what answers on the
// wire. It changes nothing that lasts: it makes no link on a host's parents and sends a handful of frames.
//
// Each thing that it looks at ends in a Finding with a code that does not change; Codes is the table of them all. What
// is only read (see.go) is kept apart from what is judged (host.go, parent.go, wire.go, inside.go).
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
)

// Verdict is how bad a finding is. The zero value is the best.
type Verdict int

// The verdicts.
const (
	OK      Verdict = iota // looked at, and as it should be
	Note                   // worth knowing, or not to be told; nothing to do
	Warning                // works, or may, and something is not as it should be
	Failure                // does not work
)

var verdictNames = []string{"ok", "note", "warning", "failure"}

func (v Verdict) String() string { return verdictNames[v] }

// MarshalText is for JSON, which has the word.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (v *Verdict) UnmarshalText(b []byte) error {
	i := slices.Index(verdictNames, string(b))
	if i < 0 {
		return fmt.Errorf("verdict %q", b)
	}
	*v = Verdict(i)
	return nil
}

// Finding is what came of one check.
type Finding struct {
	// Code is one of Codes, and does not change with versions.
	Code string `json:"code"`
	// Subject is what was looked at: "host", "eth1, VLAN 802.1Q:100", "network lan", "container web on lan".
	Subject string  `json:"subject"`
	Verdict Verdict `json:"verdict"`
	// What was found, in a line.
	What string `json:"what"`
	// Evidence is what was sent, heard or read.
	Evidence []string `json:"evidence,omitempty"`
	// Cause is why, in plain words, and Try the next commands or steps. Neither is there for OK.
	Cause string   `json:"cause,omitempty"`
	Try   []string `json:"try,omitempty"`
}

// Report is what a doctor found.
type Report struct {
	Verdict  Verdict   `json:"verdict"` // the worst of the findings
	Findings []Finding `json:"findings"`
	// Seconds that it took.
	Seconds float64 `json:"seconds"`
}

// Count is how many findings have a verdict.
func (r *Report) Count(v Verdict) (n int) {
	for _, f := range r.Findings {
		if f.Verdict == v {
			n++
		}
	}
	return n
}

// Daemon is what lanyard's daemon says. Err is why it says nothing; then the rest is empty.
type Daemon struct {
	Err     error
	Version control.Version
	// Networks of this host, with all that follows.
	Networks  []engine.NetworkState
	Endpoints []engine.EndpointState
	Pools     []ipam.PoolState
	// Conflicts are the addresses that others use, or that containers share with others.
	Conflicts []ipam.AddressState
	Leases    []ipam.LeaseState
	// Steps are what lanyard repair would do, and Notes what it says beside; RepairErr is why it does not say.
	Steps     []engine.Step
	Notes     []string
	RepairErr error
	// Hosts are those that share addresses; nil where none are shared.
	Hosts *cluster.Hosts
}

// Engine is what Docker says. Err is why it says nothing, and Partial why it did not say all.
type Engine struct {
	Err     error
	Partial error
	Version string
	// Where it is asked, such as unix:///var/run/docker.sock, and System what it runs on, in its own words.
	Where, System string
	Rootless      bool
	Networks      []EngineNetwork
	// Plugin reports that lanyard runs as a managed plugin.
	Plugin bool
}

// EngineNetwork is a macvlan or ipvlan network as Docker has it, of its own drivers or of lanyard.
type EngineNetwork struct {
	ID, Name, Driver string
	Ours             bool // lanyard's
	Scope            string
	Options          map[string]string
	Subnets, Ranges  []string
	Gateways         []string
	Containers       []EngineContainer
}

// EngineContainer is a container's place on a network.
type EngineContainer struct {
	Name, Endpoint, MAC string
	IPv4, IPv6          string // with lengths; "" for none
	Sandbox             string // the path of its namespace; "" where Docker does not say it
}

// Config is what a doctor looks at.
type Config struct {
	// Links are those of the host, and NS its namespace; nil is the caller's own.
	Links *link.Links
	NS    *netns.NS
	// Root is where the files of the kernel and the system are, "" for /. Tests have another.
	Root string
	// Client is this lanyard's version.
	Client control.Version
	Daemon Daemon
	Engine Engine
	// PluginSocket is where Docker reaches lanyard, and StateDir where its state is.
	PluginSocket, StateDir string
	// Target is what was asked for: a parent, a network, a container; "" for all.
	Target string
	// Listen is how long the wire is listened to; 0 is 3.5 s.
	Listen time.Duration
	// Progress is told what is being done, before it takes long. Optional.
	Progress func(string)
	// Clock reports whether something sets the machine's clock; nil asks the kernel.
	Clock func() (synchronised bool, err error)
}

// defaultListen is how long a wire is listened to: routers answer a solicitation within half a second, and three
// seconds after the last one at most (RFC 4861 section 6.2.6); DHCP servers that ping an address first take a second
// or, dnsmasq, three.
const defaultListen = 3500 * time.Millisecond

// Run looks, and reports. It blocks for some 4 s, and for 7 s at most; ctx ends it early, and what was found by then is
// reported. An error is a target that is nothing.
func Run(ctx context.Context, c Config) (*Report, error) {
	start := time.Now()
	if c.Listen == 0 {
		c.Listen = defaultListen
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if c.Clock == nil {
		c.Clock = clockSynchronised
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := see(c)
	if err != nil {
		return nil, err
	}
	if len(s.wires) > 0 {
		c.Progress(fmt.Sprintf("asking the LAN, and listening for %s", c.Listen))
	}
	var host, wires, inside []Finding
	var work errgroup.Group
	work.Go(func() error { host = s.checkHost(ctx); return nil })
	work.Go(func() error { inside = s.checkNetworks(ctx); return nil })
	work.Go(func() error { s.listenAll(ctx); return nil })
	work.Wait()
	if c.Target != "" {
		host = slices.DeleteFunc(host, func(f Finding) bool { return f.Verdict < Warning })
	}
	for _, w := range s.wires {
		wires = slices.Concat(wires, s.checkParent(w), s.checkWire(w))
	}
	r := &Report{Findings: bySubject(slices.Concat(host, wires, inside))}
	for i := range r.Findings {
		r.Findings[i].complete()
	}
	if r.Findings == nil {
		r.Findings = []Finding{}
	}
	for _, f := range r.Findings {
		r.Verdict = max(r.Verdict, f.Verdict)
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// bySubject puts the findings of a subject together, in the order in which subjects come up.
func bySubject(list []Finding) []Finding {
	place := map[string]int{}
	for _, f := range list {
		if _, ok := place[f.Subject]; !ok {
			place[f.Subject] = len(place)
		}
	}
	slices.SortStableFunc(list, func(a, b Finding) int { return place[a.Subject] - place[b.Subject] })
	return list
}

// limit is how long a doctor takes at most.
const limit = 7 * time.Second

// complete adds what the table of codes says in general where the finding says nothing of its own.
func (f *Finding) complete() {
	if f.Verdict == OK {
		f.Cause, f.Try = "", nil
		return
	}
	c, ok := CodeOf(f.Code)
	if !ok {
		panic("doctor: no code " + f.Code) // a finding is made in this package
	}
	if f.Verdict == Note {
		return
	}
	f.Cause = cmp.Or(f.Cause, c.Means)
	if f.Try == nil {
		f.Try = c.Do
	}
}

// found makes a finding.
func found(code, subject string, v Verdict, format string, args ...any) Finding {
	return Finding{Code: code, Subject: subject, Verdict: v, What: fmt.Sprintf(format, args...)}
}

// with adds evidence.
func (f Finding) with(format string, args ...any) Finding {
	f.Evidence = append(slices.Clip(f.Evidence), fmt.Sprintf(format, args...))
	return f
}

// because says why, in other words than the code's.
func (f Finding) because(format string, args ...any) Finding {
	f.Cause = fmt.Sprintf(format, args...)
	return f
}

// try adds a next step.
func (f Finding) try(format string, args ...any) Finding {
	f.Try = append(slices.Clip(f.Try), fmt.Sprintf(format, args...))
	return f
}

// refuse makes the error of a target that is nothing.
func refuse(target string, names []string) error {
	text := fmt.Sprintf("%q is no container, network or parent of this host", target)
	if near := lan.Nearest(target, names); near != "" {
		text += "; did you mean " + near + "?"
	} else {
		text += "; try: ip link show, docker network ls"
	}
	return lan.Refusef(lan.ErrNotFound, "%s", text)
}

// count is "1 network", "3 networks", "2 addresses".
func count(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case strings.HasSuffix(noun, "s"):
		noun += "e"
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// some lists at most six of the words.
func some(words []string) string {
	const most = 6
	if len(words) > most {
		return strings.Join(words[:most], ", ") + fmt.Sprintf(" and %d more", len(words)-most)
	}
	return strings.Join(words, ", ")
}
