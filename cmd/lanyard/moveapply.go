package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/plan"
)

// stepTime is how long Docker may take for one step.
const stepTime = 2 * time.Minute

// step is one command, as it is typed, and what does the same. firm says that all that comes
// after it needs it.
type step struct {
	command string
	do      func(ctx context.Context) error
	firm    bool
}

// mover carries moves out.
type mover struct {
	api    *engineAPI
	links  *link.Links // nil: no link of the host is touched
	driver string
	dir    string // where moves are noted that are under way
}

// is reports whether a network of Docker's is the one that a move makes.
func (m *move) is(n *plan.Request, of *plan.Request) bool {
	return n.Name == of.Name && (n.ID == of.ID || n.ID != m.From.ID && plan.IsDriver(n.Driver, of.Driver))
}

// left are the steps that are left of a move, or of its undoing, as things stand in Docker and on
// the host: none is left when it is done. So it may be asked for again whatever has cut it off.
func (v *mover) left(ctx context.Context, m *move, undo bool) ([]step, error) {
	away, to := &m.From, &m.To
	if undo {
		away, to = &m.To, &m.From
	}
	var all []plan.Request
	if err := v.api.get(ctx, "/networks", &all); err != nil {
		return nil, err
	}
	var awayID, toID string
	for i := range all {
		switch n := &all[i]; {
		case m.is(n, away):
			awayID = n.ID
		case m.is(n, to):
			toID = n.ID
		case n.Name == m.From.Name:
			return nil, fmt.Errorf("another network has the name %s by now (%s, driver %s); try: docker network rm %s, and this again", n.Name, lan.Short(n.ID), n.Driver, lan.Short(n.ID))
		}
	}
	var leave, join []step
	for _, c := range m.Containers {
		is, err := v.api.container(ctx, c.ID)
		if errors.Is(err, errGone) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		on := func(id string, n *plan.Request) bool {
			r := *n
			r.ID = id
			return id != "" && is.on(&r) != nil
		}
		if on(awayID, away) {
			leave = append(leave, v.disconnect(awayID, away.Name, c))
		}
		if !on(toID, to) || on(awayID, away) && awayID == toID {
			join = append(join, v.connect(to.Name, c))
		}
	}
	steps := leave
	if awayID != "" {
		steps = append(steps, step{"docker network rm " + word(away.Name), func(ctx context.Context) error {
			return v.change(ctx, http.MethodDelete, "/networks/"+awayID, nil)
		}, true})
	}
	for _, h := range m.Shims {
		steps = append(steps, v.shim(m.ShimParent, h, undo)...)
	}
	if toID == "" {
		request := *to
		request.ID = ""
		steps = append(steps, step{createCommand(&request), func(ctx context.Context) error {
			return v.change(ctx, http.MethodPost, "/networks/create", &request)
		}, true})
	}
	return append(steps, join...), nil
}

func (v *mover) change(ctx context.Context, method, path string, body any) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	return v.api.change(ctx, method, path, body, nil)
}

func (v *mover) disconnect(id, name string, c member) step {
	return step{"docker network disconnect " + word(name) + " " + word(c.Name), func(ctx context.Context) error {
		return v.change(ctx, http.MethodPost, "/networks/"+id+"/disconnect", map[string]any{"Container": c.ID})
	}, true}
}

func (v *mover) connect(name string, c member) step {
	return step{connectCommand(name, c), func(ctx context.Context) error {
		return v.change(ctx, http.MethodPost, "/networks/"+url.PathEscape(name)+"/connect", map[string]any{"Container": c.ID, "EndpointConfig": c.On})
	}, false}
}

// shim removes a home-made link of the host's, or makes it again as it was.
func (v *mover) shim(parent string, h link.Homemade, again bool) (steps []step) {
	if v.links == nil || v.links.Has(h.Name) == again {
		return nil
	}
	ip := func(args ...string) {
		steps = append(steps, step{"ip " + strings.Join(args, " "), func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
			}
			return nil
		}, true})
	}
	if !again {
		ip("link", "del", h.Name)
		return steps
	}
	add := []string{"link", "add", h.Name, "link", parent}
	if h.Kind == builtInMacvlan {
		add = append(add, "address", h.MAC)
	}
	ip(append(add, "type", h.Kind, "mode", h.Mode)...)
	for _, a := range h.Addrs {
		ip("addr", "add", a.String(), "dev", h.Name)
	}
	ip("link", "set", h.Name, "up")
	for _, r := range h.Routes {
		ip("route", "add", r.String(), "dev", h.Name)
	}
	return steps
}

// apply carries a move out, or the rest of it, and says each step when it is done. It notes the
// move first, so that the same again goes on with it. Up to the new network a step that fails has all undone;
// a container that cannot be connected after that is said with its command, and the others go on.
func (v *mover) apply(ctx context.Context, m *move, say func(format string, args ...any)) error {
	if err := v.note(m); err != nil {
		return err
	}
	failed, err := v.carry(ctx, m, false, say)
	switch {
	case err == nil && len(failed) == 0:
		return v.done(m)
	case err == nil:
		say("%s: %d containers are not on it; to connect them, the same command again, or:", m.From.Name, len(failed))
		for _, s := range failed {
			say("  %s", s.command)
		}
		return fmt.Errorf("network %s: not all containers are connected", m.From.Name)
	case ctx.Err() != nil:
		return fmt.Errorf("network %s: stopped in the middle; try: the same command again, which goes on", m.From.Name)
	}
	say("%s: %v; undoing it", m.From.Name, err)
	failed, uerr := v.carry(ctx, m, true, say)
	if uerr == nil && len(failed) == 0 {
		if derr := v.done(m); derr != nil {
			return derr
		}
		return fmt.Errorf("network %s was not moved, and is as it was: %w", m.From.Name, err)
	}
	rest, lerr := v.left(ctx, m, true)
	if lerr == nil {
		say("%s: what is left to be as before:", m.From.Name)
		for _, s := range rest {
			say("  %s", s.command)
		}
	}
	return errors.Join(fmt.Errorf("network %s was not moved: %w", m.From.Name, err), fmt.Errorf("undo: %w", errors.Join(uerr, lerr)))
}

// carry does what is left, and returns the steps that failed and that nothing depends on.
func (v *mover) carry(ctx context.Context, m *move, undo bool, say func(format string, args ...any)) (failed []step, err error) {
	steps, err := v.left(ctx, m, undo)
	if err != nil {
		return nil, err
	}
	for i, s := range steps {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Once begun, a step goes to its end, whoever types ^C.
		err := s.do(context.WithoutCancel(ctx))
		switch {
		case err == nil:
			say("%s: %d/%d %s", m.From.Name, i+1, len(steps), s.command)
		case s.firm:
			return nil, fmt.Errorf("%s: %w", s.command, err)
		default:
			say("%s: %d/%d failed: %s: %v", m.From.Name, i+1, len(steps), s.command, err)
			failed = append(failed, s)
		}
	}
	return failed, nil
}

func (v *mover) file(name string) string {
	return filepath.Join(v.dir, url.PathEscape(name)+".json")
}

func (v *mover) note(m *move) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return fmt.Errorf("%w; it is where a move is noted that may be cut off; try: the same with sudo", err)
	}
	if err := writeDurably(v.file(m.From.Name), append(b, '\n')); err != nil {
		return fmt.Errorf("%w; it is where a move is noted that may be cut off; try: the same with sudo", err)
	}
	return nil
}

// writeDurably replaces a file, which only its owner may read: after it, and a loss of power, it is there as a whole.
func writeDurably(path string, b []byte) error {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (v *mover) done(m *move) error { return os.Remove(v.file(m.From.Name)) }

// begun are the moves that were cut off, by name of the network.
func (v *mover) begun() (map[string]*move, error) {
	files, err := filepath.Glob(filepath.Join(v.dir, "*.json"))
	if err != nil {
		return nil, err
	}
	list := map[string]*move{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		m := &move{}
		if err := json.Unmarshal(b, m); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list[m.From.Name] = m
	}
	return list, nil
}

// word is a text as a shell takes it for one word.
func word(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// createCommand is docker network create for a network.
func createCommand(n *plan.Request) string {
	args := []string{"docker network create", "-d", word(n.Driver)}
	if n.IPAM.Driver != "default" && n.IPAM.Driver != "" {
		args = append(args, "--ipam-driver", word(n.IPAM.Driver))
	}
	pairs := func(flag string, of map[string]string) {
		for _, key := range slices.Sorted(maps.Keys(of)) {
			args = append(args, flag, word(key+"="+of[key]))
		}
	}
	pairs("--ipam-opt", n.IPAM.Options)
	if n.EnableIPv4 != nil && !*n.EnableIPv4 {
		args = append(args, "--ipv4=false")
	}
	if n.EnableIPv6 {
		args = append(args, "--ipv6")
	}
	if n.Internal {
		args = append(args, "--internal")
	}
	if n.Attachable {
		args = append(args, "--attachable")
	}
	for _, c := range n.IPAM.Config {
		args = append(args, "--subnet", word(c.Subnet))
		if c.IPRange != "" {
			args = append(args, "--ip-range", word(c.IPRange))
		}
		if c.Gateway != "" {
			args = append(args, "--gateway", word(c.Gateway))
		}
		pairs("--aux-address", c.AuxiliaryAddresses)
	}
	pairs("--label", n.Labels)
	pairs("-o", n.Options)
	return strings.Join(append(args, word(n.Name)), " ")
}

// connectCommand is docker network connect for a container.
func connectCommand(network string, c member) string {
	args := []string{"docker network connect"}
	if at := c.On.IPAMConfig; at != nil {
		if at.IPv4Address != "" {
			args = append(args, "--ip", word(at.IPv4Address))
		}
		if at.IPv6Address != "" {
			args = append(args, "--ip6", word(at.IPv6Address))
		}
		for _, ip := range at.LinkLocalIPs {
			args = append(args, "--link-local-ip", word(ip))
		}
	}
	for _, alias := range c.On.Aliases {
		args = append(args, "--alias", word(alias))
	}
	for _, l := range c.On.Links {
		args = append(args, "--link", word(l))
	}
	for _, key := range slices.Sorted(maps.Keys(c.On.DriverOpts)) {
		args = append(args, "--driver-opt", word(key+"="+c.On.DriverOpts[key]))
	}
	if c.On.GwPriority != 0 {
		args = append(args, fmt.Sprintf("--gw-priority %d", c.On.GwPriority))
	}
	return strings.Join(append(args, word(network), word(c.Name)), " ")
}
