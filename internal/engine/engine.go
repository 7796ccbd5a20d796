// Package engine has the verbs of the driver: create and delete a network,
// add, join, leave and delete an endpoint; their order, their undo, and what is
// restored on start.
package engine

import (
	"context"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Engine holds the networks and endpoints of this host.
type Engine struct{}

// CreateNetwork makes the network, or answers nil if the same one is there.
func (e *Engine) CreateNetwork(ctx context.Context, r lan.NetworkRequest) error { panic("todo") }

// SkipGateway says for which families the engine need not set a gateway
// address aside for a network with these options.
func (e *Engine) SkipGateway(opts map[string]string, internal bool) (v4, v6 bool, err error) {
	panic("todo")
}

// DeleteNetwork removes the network, its endpoints, and the links that only it used.
func (e *Engine) DeleteNetwork(ctx context.Context, id string) error { panic("todo") }

// AddEndpoint records an endpoint and returns its MAC address where we chose one, else "".
func (e *Engine) AddEndpoint(ctx context.Context, r EndpointRequest) (mac string, err error) {
	panic("todo")
}

// DeleteEndpoint removes the endpoint and its link.
func (e *Engine) DeleteEndpoint(ctx context.Context, networkID, endpointID string) error {
	panic("todo")
}

// Join makes the endpoint's link and says how the container is to use it.
func (e *Engine) Join(ctx context.Context, networkID, endpointID, sandbox string) (*Attachment, error) {
	panic("todo")
}

// Leave notes that the container is about to give the link back.
func (e *Engine) Leave(ctx context.Context, networkID, endpointID string) error { panic("todo") }

// EndpointInfo returns nil for an endpoint that is there, else lan.ErrNotFound.
func (e *Engine) EndpointInfo(ctx context.Context, networkID, endpointID string) error {
	panic("todo")
}

// Networks lists all networks, oldest first.
func (e *Engine) Networks() []NetworkState { panic("todo") }

// Endpoints lists all endpoints, oldest first.
func (e *Engine) Endpoints() []EndpointState { panic("todo") }

// Run restores what the kernel lost while we were away, then keeps house until ctx ends.
func (e *Engine) Run(ctx context.Context) error { panic("todo") }
