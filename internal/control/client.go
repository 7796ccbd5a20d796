package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

var (
	// ErrNotRunning comes when nothing answers on the socket.
	ErrNotRunning = errors.New("daemon is not running")
	// ErrDenied comes when the socket may not be opened by this user.
	ErrDenied = errors.New("permission denied")
	// ErrStopped comes when the daemon stops before it answers, or while it is listened to.
	ErrStopped = errors.New("daemon has stopped")
)

// maxAnswer bounds what the client reads: some hundred thousand endpoints.
const maxAnswer = 128 << 20

// Client asks a daemon. Its methods may be called at the same time. Errors wrap
// ErrNotRunning, ErrDenied or a sentinel of package lan where one applies.
type Client struct {
	socket string
	http   http.Client
	// patient has no timeout of its own.
	patient http.Client
}

// NewClient makes a client of the daemon on socket. It does not connect yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	transport := &http.Transport{DialContext: dial, DisableCompression: true}
	return &Client{socket, http.Client{Transport: transport, Timeout: 30 * time.Second}, http.Client{Transport: transport}}
}

// Close drops the connections that are kept open. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version asks which daemon runs.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	return v, c.get(ctx, "version", &v)
}

// Networks lists all networks, oldest first.
func (c *Client) Networks(ctx context.Context) (list []engine.NetworkState, err error) {
	return list, c.get(ctx, "networks", &list)
}

// Network is the network with the given id, or of which the id begins so.
func (c *Client) Network(ctx context.Context, id string) (*engine.NetworkState, error) {
	var n engine.NetworkState
	if err := c.get(ctx, "networks/"+url.PathEscape(id), &n); err != nil {
		return nil, err
	}
	return &n, nil
}

// ForgetNetwork removes a network that Docker has no more. id is the whole of it.
func (c *Client) ForgetNetwork(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "networks/"+url.PathEscape(id), nil, new(struct{}))
}

// Endpoints lists the endpoints of a network, or of all networks if network
// is "".
func (c *Client) Endpoints(ctx context.Context, network string) (list []engine.EndpointState, err error) {
	return list, c.get(ctx, "endpoints"+query("network", network), &list)
}

// Pools lists all pools, oldest first.
func (c *Client) Pools(ctx context.Context) (list []ipam.PoolState, err error) {
	return list, c.get(ctx, "pools", &list)
}

// Addresses lists what is known of single addresses, by wire and in order: those of a
// pool, of a network, or of both, where the parameters are not "".
func (c *Client) Addresses(ctx context.Context, pool, network string) (list []ipam.AddressState, err error) {
	return list, c.get(ctx, "addresses"+query("pool", pool, "network", network), &list)
}

// Reserve sets an address aside for a container, or for nobody.
func (c *Client) Reserve(ctx context.Context, q Reservation) (*Change, error) {
	return c.change(ctx, "addresses/reserve", q)
}

// Release makes an address free that no container has. pool is as in a Reservation.
func (c *Client) Release(ctx context.Context, pool, address string) (*Change, error) {
	return c.change(ctx, "addresses/release", release{pool, address})
}

// Leases lists the DHCP leases, by wire and address: all, or those of a network where
// that is not "".
func (c *Client) Leases(ctx context.Context, network string) (list []ipam.LeaseState, err error) {
	return list, c.get(ctx, "leases"+query("network", network), &list)
}

// Lease is the lease with an id.
func (c *Client) Lease(ctx context.Context, id string) (*ipam.LeaseState, error) {
	var l ipam.LeaseState
	if err := c.get(ctx, "leases/"+url.PathEscape(id), &l); err != nil {
		return nil, err
	}
	return &l, nil
}

// RenewLease asks the server for more time now. It blocks for as long as that takes: some
// seconds, and up to the network's dhcp_timeout more where the server has taken the address
// back. That the container has no address in the end is an error.
func (c *Client) RenewLease(ctx context.Context, id string) (*ipam.LeaseState, error) {
	// The daemon ends it earlier.
	ctx, cancel := context.WithTimeout(ctx, renewFor+5*time.Second)
	defer cancel()
	var l ipam.LeaseState
	if err := c.send(ctx, &c.patient, http.MethodPost, "leases/"+url.PathEscape(id)+"/renew", nil, c.decodeInto(&l)); err != nil {
		return nil, err
	}
	return &l, nil
}

// ReleaseLease gives a lease back that no container has. It returns the lease as it was.
func (c *Client) ReleaseLease(ctx context.Context, id string) (*ipam.LeaseState, error) {
	var l ipam.LeaseState
	if err := c.do(ctx, http.MethodPost, "leases/"+url.PathEscape(id)+"/release", nil, &l); err != nil {
		return nil, err
	}
	return &l, nil
}

// Events are those that came after one, as far as they are remembered; 0 is before all.
func (c *Client) Events(ctx context.Context, after uint64) (list []ipam.Event, err error) {
	return list, c.get(ctx, "events"+query("after", seq(after)), &list)
}

// Follow calls each for the events after one, and for those that come. It returns the
// error of each, that of ctx when it ends, and ErrStopped when the daemon stops.
func (c *Client) Follow(ctx context.Context, after uint64, each func(ipam.Event) error) error {
	err := c.send(ctx, &c.patient, http.MethodGet, "events"+query("after", seq(after), "follow", "true"), nil, func(answer io.Reader) error {
		for lines := json.NewDecoder(answer); ; {
			var e ipam.Event
			switch err := lines.Decode(&e); {
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				return fmt.Errorf("control socket %s: %w", c.socket, ErrStopped)
			case err != nil:
				return fmt.Errorf("control socket %s: answer: %w", c.socket, err)
			}
			if err := each(e); err != nil {
				return err
			}
		}
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// seq is the seq of an event in a query; 0 is left out.
func seq(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func (c *Client) change(ctx context.Context, path string, body any) (*Change, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	var done Change
	if err := c.do(ctx, http.MethodPost, path, bytes.NewReader(b), &done); err != nil {
		return nil, err
	}
	return &done, nil
}

// query is the query of a path, of keys and values; what is "" is left out.
func query(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.do(ctx, http.MethodGet, path, nil, into)
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, into any) error {
	return c.send(ctx, &c.http, method, path, body, c.decodeInto(into))
}

// decodeInto reads an answer that is one value.
func (c *Client) decodeInto(into any) func(io.Reader) error {
	return func(answer io.Reader) error {
		if err := json.NewDecoder(io.LimitReader(answer, maxAnswer)).Decode(into); err != nil {
			return fmt.Errorf("control socket %s: answer: %w", c.socket, err)
		}
		return nil
	}
}

// send sends a request, and has the answer read if it is no error.
func (c *Client) send(ctx context.Context, by *http.Client, method, path string, body io.Reader, read func(io.Reader) error) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://lanyard/v1/"+path, body)
	if err != nil {
		return err
	}
	w, err := by.Do(r)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("control socket %s: %w", c.socket, ErrNotRunning)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("control socket %s: %w", c.socket, ErrDenied)
	case err != nil && hungUp(err):
		return fmt.Errorf("control socket %s: %w", c.socket, ErrStopped)
	case err != nil:
		return fmt.Errorf("control socket %s: %w", c.socket, err)
	}
	defer w.Body.Close()
	if w.StatusCode != http.StatusOK {
		return readError(io.LimitReader(w.Body, maxAnswer), w.Status)
	}
	return read(w.Body)
}

// hungUp tells whether the other end closed the connection before it answered. net/http
// exports no value for one of the ways in which it says so.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || strings.HasSuffix(err.Error(), "server closed idle connection")
}

// readError makes an error of an error answer.
func readError(body io.Reader, status string) error {
	var e wireError
	if err := json.NewDecoder(body).Decode(&e); err != nil || e.Error == "" {
		return fmt.Errorf("daemon answered %s", status)
	}
	for _, s := range statuses {
		if s.code == e.Code {
			return lan.Refusef(s.reason, "%s", e.Error)
		}
	}
	return errors.New(e.Error)
}
