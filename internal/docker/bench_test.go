package docker_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/docker"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

// BenchmarkContainer is all that lanyard does for a docker run --rm: the calls of
// 28.5 over a unix socket, the records on disk and the link in the kernel, without
// the link's removal, which the engine does not wait for.
func BenchmarkContainer(b *testing.B) {
	d := newDoor(b)
	d.post(b, "NetworkDriver.CreateNetwork", `{"NetworkID":"net1","Options":{"com.docker.network.enable_ipv4":true,"com.docker.network.generic":{"parent":"eth1"}},`+
		`"IPv4Data":[{"AddressSpace":"LocalDefault","Pool":"192.168.0.0/16","Gateway":"192.168.0.1/16"}],"IPv6Data":[]}`)
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		ids := fmt.Sprintf(`"NetworkID":"net1","EndpointID":"%064d"`, i)
		d.post(b, "NetworkDriver.CreateEndpoint", fmt.Sprintf(`{%s,"Interface":{"Address":"192.168.%d.%d/16","AddressIPv6":"","MacAddress":""},"Options":{}}`, ids, i>>8&0xff, i&0xff))
		d.post(b, "NetworkDriver.Join", `{`+ids+`,"SandboxKey":"/run/docker/netns/x","Options":{}}`)
		d.post(b, "NetworkDriver.EndpointOperInfo", `{`+ids+`}`)
		d.post(b, "NetworkDriver.Leave", `{`+ids+`}`)
		d.post(b, "NetworkDriver.DeleteEndpoint", `{`+ids+`}`)
		b.StopTimer()
		d.settle(b)
		b.StartTimer()
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	// Time outside the kernel, this benchmark's own client included.
	b.ReportMetric(float64(after.Utime.Nano()-before.Utime.Nano())/float64(i), "user-ns/op")
}

// BenchmarkCall is the cost of the door alone: a call that touches nothing.
func BenchmarkCall(b *testing.B) {
	d := newDoor(b)
	for b.Loop() {
		d.post(b, "NetworkDriver.GetCapabilities", "")
	}
}

// BenchmarkNetwork is docker network create and rm on a parent that is there.
func BenchmarkNetwork(b *testing.B) {
	d := newDoor(b)
	for b.Loop() {
		d.post(b, "NetworkDriver.CreateNetwork", `{"NetworkID":"net1","Options":{"com.docker.network.generic":{"parent":"eth1"}},`+
			`"IPv4Data":[{"Pool":"192.168.0.0/16","Gateway":"192.168.0.1/16"}],"IPv6Data":[]}`)
		d.post(b, "NetworkDriver.DeleteNetwork", `{"NetworkID":"net1"}`)
	}
}

// door is a daemon's inside on a socket, with a kernel of its own.
type door struct {
	client *http.Client
	links  *link.Links
}

func newDoor(b *testing.B) *door {
	b.Helper()
	h := kerneltest.New(b)
	h.Veth("eth1", "wire")
	links, err := link.NewAt(h.NS)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(links.Close)
	db, err := store.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	log := slog.New(slog.DiscardHandler)
	state, err := db.Load()
	if err != nil {
		b.Fatal(err)
	}
	addresses, err := ipam.New(ipam.Config{DB: db, Links: links, Log: log}, state)
	if err != nil {
		b.Fatal(err)
	}
	e, err := engine.New(engine.Config{DB: db, Links: links, Addresses: addresses, State: state, Log: log, Waits: func(string) {}})
	if err != nil {
		b.Fatal(err)
	}
	sock := filepath.Join(b.TempDir(), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: docker.New(docker.VerbsOf(e), log)}
	go srv.Serve(l)
	b.Cleanup(func() { srv.Close() })
	return &door{links: links, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", sock)
		},
	}}}
}

func (d *door) post(b *testing.B, method, body string) {
	b.Helper()
	r, err := d.client.Post("http://lanyard/"+method, "", bytes.NewReader([]byte(body)))
	if err != nil {
		b.Fatal(err)
	}
	answer, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil || r.StatusCode != http.StatusOK || bytes.Contains(answer, []byte(`"Err"`)) {
		b.Fatalf("%s: %s %s %v", method, r.Status, answer, err)
	}
}

// settle waits until the links of removed endpoints are gone.
func (d *door) settle(b *testing.B) {
	b.Helper()
	for {
		names, err := d.links.Mine()
		if err != nil {
			b.Fatal(err)
		}
		if len(names) == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
