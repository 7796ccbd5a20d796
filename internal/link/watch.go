package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
)

// watchBuffer is how much the kernel keeps of what was not read yet, in bytes: some
// thousand changes.
const watchBuffer = 4 << 20

// handle is the namespace as netlink wants it, nil for the process's own.
func (l *Links) handle() *vnetns.NsHandle {
	if l.ns == nil {
		return nil
	}
	ns := vnetns.NsHandle(l.ns.Fd())
	return &ns
}

// Watch calls changed with the index of each link that changes, comes or goes (RTNLGRP_LINK),
// and with its parent's where it is a child, children of ours left out, until ctx ends; it returns nil then. An error means that
// changes may have been missed, and that the caller should look and watch again. It calls
// changed once when it has begun, with index 0.
func (l *Links) Watch(ctx context.Context, changed func(index int)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan netlink.LinkUpdate, 64)
	var failed error // read when updates is closed
	o := netlink.LinkSubscribeOptions{
		ErrorCallback:          func(err error) { failed = errors.Join(failed, err) },
		ReceiveBufferSize:      watchBuffer,
		ReceiveBufferForceSize: true,
	}
	o.Namespace = l.handle()
	if err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), o); err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	changed(0)
	for u := range updates {
		child := u.Link.Type() == "macvlan" || u.Link.Type() == "ipvlan"
		if ctx.Err() != nil || child && mine(u.Link) {
			continue
		}
		changed(u.Link.Attrs().Index)
		if p := u.Link.Attrs().ParentIndex; child && p != 0 {
			changed(p)
		}
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the socket was closed for it
	}
	return fmt.Errorf("watch links: %w", failed)
}

// WatchAddrs calls changed when an address of a link comes, goes or becomes usable
// (RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR), until ctx ends; it returns nil then. An error means
// that changes may have been missed, and that the caller should look and watch again. It calls
// changed once when it has begun.
func (l *Links) WatchAddrs(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan netlink.AddrUpdate, 64)
	var failed error // read when updates is closed
	o := netlink.AddrSubscribeOptions{
		ErrorCallback:          func(err error) { failed = errors.Join(failed, err) },
		ReceiveBufferSize:      watchBuffer,
		ReceiveBufferForceSize: true,
	}
	o.Namespace = l.handle()
	if err := netlink.AddrSubscribeWithOptions(updates, ctx.Done(), o); err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	changed()
	for range updates {
		changed()
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the socket was closed for it
	}
	return fmt.Errorf("watch addresses: %w", failed)
}
