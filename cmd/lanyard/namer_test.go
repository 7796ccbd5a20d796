package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// Docker is asked for names when something is new, and now and then, since containers may be renamed.
func TestNamer(t *testing.T) {
	container, asked := "web", 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/networks" {
			asked++
			fmt.Fprint(w, `[{"Id":"n1","Name":"lan"},{"Id":"n2","Name":"guests"},{"Id":"b","Name":"bridge"}]`)
			return
		}
		fmt.Fprintf(w, `[{"Names":["/%s"],"NetworkSettings":{"Networks":{"lan":{"EndpointID":"e1"}}}}]`, container)
	}))
	defer server.Close()
	n := newNamer(&engineAPI{base: server.URL, patience: patience})
	networks := []engine.NetworkState{{Network: lan.Network{ID: "n1"}}}
	endpoints := []engine.EndpointState{{Endpoint: lan.Endpoint{ID: "e1"}, State: "joined"}}
	has := func(what string, wantAsked int, want map[string]string) {
		t.Helper()
		n.took = 0 // however long a server on a busy machine takes
		got := n.names(t.Context(), networks, endpoints)
		if diff := cmp.Diff(want, got); diff != "" || asked != wantAsked {
			t.Errorf("%s: asked %d times, want %d (-want +got)\n%s", what, asked, wantAsked, diff)
		}
	}
	has("at first", 1, map[string]string{"n1": "lan", "e1": "web"})
	has("again", 1, map[string]string{"n1": "lan", "e1": "web"})
	networks = append(networks, engine.NetworkState{Network: lan.Network{ID: "n2"}})
	has("a network more", 2, map[string]string{"n1": "lan", "n2": "guests", "e1": "web"})
	container = "api"
	n.asked = n.asked.Add(-namesAgain - time.Second)
	has("a container that was renamed", 3, map[string]string{"n1": "lan", "n2": "guests", "e1": "api"})
	endpoints = nil
	has("it is gone", 3, map[string]string{"n1": "lan", "n2": "guests"})
	if got := n.ofNetworks([]string{"n1", "n9"}); got["n1"] != "lan" || got["n9"] != "" || asked != 3 {
		t.Errorf("networks alone: %v, asked %d times", got, asked)
	}
	// Docker that takes long is left alone for longer.
	networks = append(networks, engine.NetworkState{Network: lan.Network{ID: "n9"}})
	n.took = time.Minute
	if n.names(t.Context(), networks, nil); asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}
