package dhcp

import (
	"fmt"

	"golang.org/x/net/bpf"

	"github.com/lanyard-net/lanyard/internal/packet"
)

// astray hands over answers that come with another tag than the wire's, and says which,
// until stop is called, which waits. They come where a switch port is set wrong. Hardware
// keeps those from us that have the tag of a VLAN which is not on this host; most often
// they have none.
func (c Config) astray(filter []bpf.Instruction, hear func(frame []byte, where string)) (stop func(), err error) {
	ear, err := packet.Listen(c.Below, filter, false)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxFrame)
		for {
			n, vlan, err := ear.ReadVLAN(buf)
			if err != nil {
				return
			}
			if vlan != c.VLAN {
				hear(buf[:n], fmt.Sprintf("%s, not %s", vlanText(vlan), vlanText(c.VLAN)))
			}
		}
	}()
	return func() {
		ear.Stop()
		<-done
		_ = ear.Close()
	}, nil
}

func vlanText(id uint16) string {
	if id == 0 {
		return "untagged"
	}
	return fmt.Sprintf("on VLAN %d", id)
}
