package docker

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// requestIDs are the ids of the lines of a log, in order.
func requestIDs(log string) (ids []string) {
	for _, m := range regexp.MustCompile(`(?m) request=(\S+)$`).FindAllStringSubmatch(log, -1) {
		ids = append(ids, m[1])
	}
	return ids
}

// What Docker calls for one docker run has one id, and so has what it calls when that container
// stops, whatever comes in between; two containers never share one.
func TestOneIDThroughARequest(t *testing.T) {
	next := 1
	v := newHost().verbs()
	v.RequestPool = func(context.Context, lan.PoolRequest) (lan.PoolGrant, error) {
		return lan.PoolGrant{ID: "p", Subnet: netip.MustParsePrefix("10.0.0.0/24")}, nil
	}
	v.RequestAddress = func(_ context.Context, r lan.AddressRequest) (netip.Prefix, error) {
		next++
		return netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", next)), nil
	}
	v.CreateNetwork = func(context.Context, lan.NetworkRequest) error { return nil }
	v.AddEndpoint = func(context.Context, engine.EndpointRequest) (engine.EndpointGrant, error) {
		return engine.EndpointGrant{MAC: "02:00:00:00:00:01"}, nil
	}
	v.Join = func(context.Context, string, string, string) (*engine.Attachment, error) {
		return &engine.Attachment{}, nil
	}
	v.EndpointInfo = func(context.Context, string, string) error { return nil }
	v.Leave = func(context.Context, string, string) error { return nil }
	v.DeleteEndpoint, v.ReleaseAddress = v.Leave, func(context.Context, string, netip.Addr) error { return nil }
	d := newDoor(v)
	of := map[string]string{} // whose id each is
	call := func(who, method, body string) {
		t.Helper()
		d.log.Reset()
		if status, answer := d.ask(t, "POST", method, body); status != 200 || answer["Err"] != nil {
			t.Fatalf("%s: %d %v", method, status, answer)
		}
		id := requestIDs(d.log.String())[0]
		if of[who] == "" {
			for other, theirs := range of {
				if theirs == id {
					t.Errorf("%s of %s has the id of %s", method, who, other)
				}
			}
			of[who] = id
		}
		if of[who] != id {
			t.Errorf("%s of %s has another id than what came before", method, who)
		}
	}
	endpoint := func(ep string) string { return `"NetworkID":"n","EndpointID":"` + ep + `"` }
	address := func(addr, name string) string {
		return `{"PoolID":"p","Address":"` + addr + `","Options":{"com.docker.network.endpoint.name":"` + name + `"}}`
	}
	call("network", "IpamDriver.RequestPool", `{"Pool":"10.0.0.0/24"}`)
	call("network", "IpamDriver.RequestAddress", `{"PoolID":"p","Options":{"RequestAddressType":"com.docker.network.gateway"}}`)
	call("network", "NetworkDriver.CreateNetwork", `{"NetworkID":"n","IPv4Data":[{"Pool":"10.0.0.0/24"}],"Options":{"com.docker.network.generic":{}}}`)

	call("run a", "IpamDriver.RequestAddress", address("", "")) // 10.0.0.3
	call("run b", "IpamDriver.RequestAddress", address("", "")) // 10.0.0.4
	for _, who := range []string{"b", "a"} {
		addr := map[string]string{"a": "10.0.0.3/24", "b": "10.0.0.4/24"}[who]
		call("run "+who, "NetworkDriver.CreateEndpoint", `{`+endpoint(who)+`,"Interface":{"Address":"`+addr+`"}}`)
	}
	for _, who := range []string{"a", "b"} {
		call("run "+who, "NetworkDriver.Join", `{`+endpoint(who)+`,"SandboxKey":"/var/run/docker/netns/`+who+`"}`)
		call("run "+who, "NetworkDriver.EndpointOperInfo", `{`+endpoint(who)+`}`)
	}
	for _, who := range []string{"a", "b"} {
		call("stop "+who, "NetworkDriver.Leave", `{`+endpoint(who)+`}`)
	}
	for _, who := range []string{"b", "a"} {
		call("stop "+who, "NetworkDriver.DeleteEndpoint", `{`+endpoint(who)+`}`)
	}
	call("stop a", "IpamDriver.ReleaseAddress", address("10.0.0.3", ""))
	call("stop b", "IpamDriver.ReleaseAddress", address("10.0.0.4", ""))

	// The next one with that address is another one's.
	call("run d", "NetworkDriver.CreateEndpoint", `{`+endpoint("d")+`,"Interface":{"Address":"10.0.0.3/24"}}`)
	call("stop d", "NetworkDriver.Leave", `{`+endpoint("d")+`}`)
	call("stop d", "NetworkDriver.DeleteEndpoint", `{`+endpoint("d")+`}`)
	call("stop d", "IpamDriver.ReleaseAddress", address("10.0.0.3", ""))

	// Both families of a container whose name the engine says, and the container once more.
	call("run c", "IpamDriver.RequestAddress", address("", "c"))
	call("run c", "IpamDriver.RequestAddress", address("", "c"))
	call("run c", "NetworkDriver.CreateEndpoint", `{`+endpoint("c")+`,"Interface":{"Address":"10.0.0.5/24"}}`)
	call("again c", "IpamDriver.RequestAddress", address("", "c"))

	// What did not come to stand is taken back under its own id.
	v.Join = func(context.Context, string, string, string) (*engine.Attachment, error) {
		return nil, lan.ErrUnavailable
	}
	call("again c", "NetworkDriver.CreateEndpoint", `{`+endpoint("c2")+`,"Interface":{"Address":"10.0.0.7/24"}}`)
	call("again c", "NetworkDriver.DeleteEndpoint", `{`+endpoint("c2")+`}`)
	call("again c", "IpamDriver.ReleaseAddress", address("10.0.0.7", ""))

	if n := len(d.threads.addrs); n != 1 || len(d.threads.known) > 8 {
		t.Errorf("%d endpoints and %d keys are remembered, of one container that runs: %v", n, len(d.threads.known), strings.Join(keysOf(d.threads.known), ", "))
	}
}

func keysOf(known map[string][]*thread) (keys []string) {
	for key := range known {
		keys = append(keys, key)
	}
	return keys
}
