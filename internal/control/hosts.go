package control

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// shared is a route of what only hosts have that share addresses.
func shared(src Source, do func(*http.Request) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		if src.Cluster == nil {
			return nil, lan.Refusef(lan.ErrNotFound, "this host shares no addresses with others; try: lanyard daemon --store etcd://HOST, on each of them")
		}
		return do(r)
	}
}

// hostRoutes are the routes of the hosts that share addresses.
func hostRoutes(src Source, handle func(string, func(*http.Request) (any, error))) {
	handle("GET /v1/hosts", shared(src, func(r *http.Request) (any, error) { return src.Cluster.Hosts(r.Context()), nil }))
	handle("GET /v1/policy", shared(src, func(*http.Request) (any, error) { return src.Cluster.Policy(), nil }))
	handle("PUT /v1/policy", shared(src, func(r *http.Request) (any, error) {
		text := r.URL.Query().Get("forget-after")
		var p cluster.Policy
		if text != "never" {
			var err error
			if p.ForgetAfter, err = time.ParseDuration(text); err != nil || p.ForgetAfter <= 0 {
				return nil, lan.Refusef(lan.ErrInvalid, "forget-after=%q: it is a time such as 72h, or never", clip(text))
			}
		}
		return p, src.Cluster.SetPolicy(r.Context(), p)
	}))
	handle("POST /v1/hosts/{name}/drain", shared(src, func(r *http.Request) (any, error) {
		undo, err := flag(r, "undo")
		if err != nil {
			return nil, err
		}
		return src.Cluster.Drain(r.Context(), r.PathValue("name"), !undo)
	}))
	handle("POST /v1/hosts/{name}/forget", shared(src, func(r *http.Request) (any, error) {
		force, err := flag(r, "force")
		if err != nil {
			return nil, err
		}
		// Once begun it goes to its end, whoever hangs up.
		return src.Cluster.Forget(context.WithoutCancel(r.Context()), r.PathValue("name"), force)
	}))
}

// flag is a query that is true or false, and false where it is not there.
func flag(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return false, lan.Refusef(lan.ErrInvalid, "%s=%q: it is true or false", name, clip(text))
	}
	return on, nil
}

// Hosts lists the hosts that share addresses.
func (c *Client) Hosts(ctx context.Context) (h cluster.Hosts, err error) {
	return h, c.get(ctx, "hosts", &h)
}

// DrainHost has a host give out no new addresses, or again. It returns the host.
func (c *Client) DrainHost(ctx context.Context, name string, undo bool) (h cluster.Host, err error) {
	return h, c.do(ctx, http.MethodPost, "hosts/"+url.PathEscape(name)+"/drain"+query("undo", strconv.FormatBool(undo)), nil, &h)
}

// Policy is what an operator wants of all hosts.
func (c *Client) Policy(ctx context.Context) (p cluster.Policy, err error) {
	return p, c.get(ctx, "policy", &p)
}

// SetPolicy has hosts forgotten that are silent for a time, such as 72h, or never. It returns the
// policy.
func (c *Client) SetPolicy(ctx context.Context, forgetAfter string) (p cluster.Policy, err error) {
	return p, c.do(ctx, http.MethodPut, "policy"+query("forget-after", forgetAfter), nil, &p)
}

// ForgetHost says that a host is gone for good. It returns the host, with how many addresses
// it had.
func (c *Client) ForgetHost(ctx context.Context, name string, force bool) (h cluster.Host, err error) {
	return h, c.do(ctx, http.MethodPost, "hosts/"+url.PathEscape(name)+"/forget"+query("force", strconv.FormatBool(force)), nil, &h)
}
