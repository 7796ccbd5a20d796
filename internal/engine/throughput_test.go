package engine

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

// BenchmarkThroughput is what one TCP connection carries (MB/s), and how many datagrams of 64 bytes are sent (ns
// each), between siblings, between the host and a container (host_access), and from a
// container to the LAN, without and with antispoof, all on one machine.
func BenchmarkThroughput(b *testing.B) {
	for _, of := range []struct {
		name     string
		opts     []string
		from, to string
	}{
		{"siblings", nil, "container", "sibling"},
		{"siblings, antispoof", []string{"antispoof=true"}, "container", "sibling"},
		{"container to host", []string{"host_access=true"}, "container", "host"},
		{"host to container", []string{"host_access=true"}, "host", "container"},
		{"container to LAN", nil, "container", "LAN"},
		{"container to LAN, antispoof", []string{"antispoof=true"}, "container", "LAN"},
	} {
		h, peer := newBench(b), kerneltest.New(b)
		h.host.IP("link del eth1")
		h.wire(peer)
		h.host.IP("addr add 192.168.0.9/24 dev eth1")
		h.host.IP("link set eth1 up")
		if err := h.CreateNetwork(ctx, lanRequest("net1", append(of.opts, "parent=eth1")...)); err != nil {
			b.Fatal(err)
		}
		places := map[string]*kerneltest.Host{"host": h.host, "LAN": peer, "container": h.onLAN("net1", "ep1", 2), "sibling": h.onLAN("net1", "ep2", 3)}
		addrs := map[string]string{"host": "192.168.0.9", "LAN": "192.168.0.1", "container": "192.168.0.2", "sibling": "192.168.0.3"}
		from, to, addr := places[of.from], places[of.to], addrs[of.to]
		within(b, 10*time.Second, "they reach each other", func() bool { return pings(from, addr) })
		if len(of.opts) > 0 && of.opts[0] == "antispoof=true" {
			h.inForce(from)
		}
		b.Run(of.name+", TCP", func(b *testing.B) { stream(b, from, to, addr) })
		b.Run(of.name+", datagrams", func(b *testing.B) { datagrams(b, from, addr) })
	}
}

// stream sends a stream from one namespace to another.
func stream(b *testing.B, from, to *kerneltest.Host, addr string) {
	var l net.Listener
	var c net.Conn
	if err := to.NS.Do(func() (err error) { l, err = net.Listen("tcp", ":0"); return err }); err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := from.NS.Do(func() (err error) { c, err = net.Dial("tcp", net.JoinHostPort(addr, port)); return err }); err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	got := make(chan int64, 1)
	go func() {
		in, err := l.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer in.Close()
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{in}, make([]byte, 256<<10))
		got <- n
	}()
	chunk := make([]byte, 256<<10)
	b.SetBytes(int64(len(chunk)))
	var sent int64
	for b.Loop() {
		n, err := c.Write(chunk)
		if sent += int64(n); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	if n := <-got; n != sent {
		b.Fatalf("%d of %d bytes came", n, sent)
	}
}

// datagrams sends what nobody takes.
func datagrams(b *testing.B, from *kerneltest.Host, addr string) {
	var c net.Conn
	if err := from.NS.Do(func() (err error) {
		c, err = net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(addr), Port: 9})
		return err
	}); err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	small := make([]byte, 64)
	for b.Loop() {
		_, _ = c.Write(small) // refused, says the other end
	}
}
