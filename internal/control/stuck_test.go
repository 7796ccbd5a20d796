package control

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
)

// pipes is a listener on which one client has come.
type pipes struct {
	conn   chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conn:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// Who follows events and reads none is let go, and holds up nobody meanwhile.
func TestStuckFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := source()
		src.Events = func(_ context.Context, after uint64, _ bool) []ipam.Event {
			return []ipam.Event{{Seq: after + 1, What: "parent-up"}}
		}
		ended := make(chan time.Time, 1)
		api := NewHandler(src, quiet)
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			api.ServeHTTP(w, r)
			ended <- time.Now()
		})
		l := &pipes{make(chan net.Conn, 1), make(chan struct{})}
		theirs, ours := net.Pipe()
		l.conn <- ours
		server := &http.Server{Handler: handler}
		go func() { _ = server.Serve(l) }()
		defer server.Close()
		defer theirs.Close()
		start := time.Now()
		if _, err := io.WriteString(theirs, "GET /v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(theirs, make([]byte, 100)); err != nil { // and no more
			t.Fatal(err)
		}
		if took := (<-ended).Sub(start); took != eventFor {
			t.Errorf("let go after %v, want %v", took, eventFor)
		}
	})
}
