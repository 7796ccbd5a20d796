package dhcpserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
)

// RelayConfig is what a relay agent does. All fields are required.
type RelayConfig struct {
	// Down is the link of the clients, Up that of the server. In IPv4 both need an
	// address; Down's is in the subnet of the server's pool.
	Down, Up string
	// Server is asked in unicast; its family is the relay's. It needs a route to
	// Down's subnet.
	Server netip.Addr
}

// Relay is a relay agent in its place.
type Relay struct {
	run Runner
	dir string
	job job
}

// StartRelay starts a relay agent in a place. dir is a folder there that is made.
func StartRelay(ctx context.Context, run Runner, dir string, c RelayConfig) (*Relay, error) {
	r := &Relay{run: run, dir: dir, job: job{name: "relay", program: "/usr/sbin/dhcrelay"}}
	if c.Server.Is4() {
		r.job.args = fmt.Sprintf("-d -4 --no-pid -id %s -iu %s %s", c.Down, c.Up, c.Server)
		r.job.ready = "Sending on   Socket"
	} else {
		r.job.args = fmt.Sprintf("-d -6 --no-pid -l %s -u %s%%%s", c.Down, c.Server, c.Up)
		r.job.ready = "Sending on   Socket"
	}
	if out, err := run(ctx, "mkdir -p "+dir); err != nil {
		return nil, fmt.Errorf("relay: %w: %s", err, out)
	}
	if err := r.Start(ctx); err != nil {
		return nil, errors.Join(err, r.Close(context.WithoutCancel(ctx)))
	}
	return r, nil
}

// Start starts a relay agent that was stopped.
func (r *Relay) Start(ctx context.Context) error { return start(ctx, r.run, r.dir, r.job) }

// Stop ends the relay agent and waits for its end.
func (r *Relay) Stop(ctx context.Context) error { return end(ctx, r.run, r.dir, r.job, "TERM") }

// Close stops the relay agent and removes its folder. It may be called twice.
func (r *Relay) Close(ctx context.Context) error {
	err := r.Stop(ctx)
	if out, rmErr := r.run(ctx, "rm -rf "+r.dir); rmErr != nil {
		err = errors.Join(err, fmt.Errorf("remove %s: %w: %s", r.dir, rmErr, out))
	}
	return err
}

// Log is what the relay agent printed since its first start.
func (r *Relay) Log(ctx context.Context) string {
	out, err := r.run(ctx, "cat "+path.Join(r.dir, "relay.log"))
	if err != nil {
		out += "\n" + err.Error()
	}
	return strings.TrimSpace(out)
}
