package acd

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// What our sockets cost the traffic of a parent that has nothing to do with them:
// one frame out of it, or into it.
func BenchmarkTraffic(b *testing.B) {
	host, far := kerneltest.New(b), kerneltest.New(b)
	host.IP("link add eth1 type veth peer name eth0 netns %s", far.Path())
	host.IP("link set eth1 up")
	far.IP("link set eth0 up")
	parent := at(b, host, "eth1")
	plain := func(fd int) error { return nil }
	for _, c := range []struct {
		name   string
		listen func() (*port, error)
	}{
		{"none", func() (*port, error) { return packet.Sender(parent) }},
		{"tap", func() (*port, error) { return listen(parent, direct) }},
		{"wire", func() (*port, error) { return listen(parent, incoming) }},
		{"ear elsewhere", func() (*port, error) { return listen(Link{NS: kerneltest.New(b).NS}, outgoing) }},
		{"unfiltered", func() (*port, error) { return packet.Open(parent, unix.ETH_P_ALL, plain) }},
	} {
		for way, from := range map[string]Link{"out": parent, "in": at(b, far, "eth0")} {
			b.Run(c.name+"/"+way, func(b *testing.B) {
				p, err := c.listen()
				if err != nil {
					b.Fatal(err)
				}
				defer p.Close()
				s := raw(b, from, 0)
				frame := ethernet(broadcast, macA, 0x88b5, 1400)[:ethLen+1400] // for experiments (IEEE 802)
				for b.Loop() {
					if err := s.Send(frame); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
