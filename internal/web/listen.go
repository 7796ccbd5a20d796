package web

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/net/netutil"

	"github.com/lanyard-net/lanyard/internal/serve"
)

// maxConns bounds the connections of all clients; further ones wait. A browser has up to six.
const maxConns = 64

// Place is where the page is to be served.
type Place struct{ network, address string }

// ParsePlace reads ADDRESS:PORT or unix:///PATH. Where others than this machine's users could
// connect it must be said that there is a token.
func ParsePlace(text string, token bool) (Place, error) {
	if path, ok := strings.CutPrefix(text, "unix://"); ok {
		if !filepath.IsAbs(path) {
			return Place{}, fmt.Errorf("%q: the path of the socket must begin with /, such as unix:///run/lanyard/web.sock", text)
		}
		return Place{"unix", path}, nil
	}
	host, port, err := net.SplitHostPort(text)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
		return Place{}, fmt.Errorf("%q: want ADDRESS:PORT such as 127.0.0.1:8780, or unix:///run/lanyard/web.sock", text)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case host != "" && err != nil:
		return Place{}, fmt.Errorf("%q: %s is not an address", text, host)
	case !addr.IsLoopback() && !token:
		return Place{}, errors.New(text + ": others on the network could look; give them a token (--listen-token-file), or listen on 127.0.0.1:" + port + " or unix:///run/lanyard/web.sock")
	}
	return Place{"tcp", net.JoinHostPort(host, port)}, nil
}

// Listen listens there. A socket file is its owner's alone.
func (p Place) Listen() (net.Listener, error) {
	if p.network == "unix" {
		l, err := serve.Listen(p.address)
		if err != nil {
			return nil, err
		}
		return netutil.LimitListener(l, maxConns), nil
	}
	l, err := net.Listen(p.network, p.address)
	if err != nil {
		return nil, fmt.Errorf("page: %w; try: another port with --listen", err)
	}
	return netutil.LimitListener(l, maxConns), nil
}
