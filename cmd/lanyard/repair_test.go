package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A container that Docker does not tell of is no container that has gone: its endpoint is
// missing, and that is said; one that has gone is left out without a word.
func TestDockerDoesNotTellAll(t *testing.T) {
	answers := map[string]int{}
	docker := http.NewServeMux()
	docker.HandleFunc("GET /networks", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `[{"ID":"net1","Name":"lan","Driver":"lanyard"},{"ID":"net2","Name":"other","Driver":"bridge"},
			{"ID":"net3","Name":"managed","Driver":"example.org/net/lanyard:1.2"},{"ID":"net4","Name":"renamed","Driver":"ours:latest"},
			{"ID":"net5","Name":"on another node","Scope":"swarm","Driver":"lanyard:latest","IPAM":{"Driver":""}},
			{"ID":"net6","Name":"a task's","Scope":"swarm","Driver":"lanyard:latest","IPAM":{"Driver":""}}]`)
	})
	docker.HandleFunc("GET /networks/{id}", func(w http.ResponseWriter, r *http.Request) {
		driver := map[string]string{"net6": "lanyard:latest"}[r.PathValue("id")]
		fmt.Fprintf(w, `{"ID":%q,"Scope":"swarm","Driver":"lanyard:latest","IPAM":{"Driver":%q}}`, r.PathValue("id"), driver)
	})
	docker.HandleFunc("GET /containers/json", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `[{"ID":"c1"},{"ID":"c2"},{"ID":"c3"}]`)
	})
	docker.HandleFunc("GET /containers/{id}/json", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		if answers[id] == 0 {
			time.Sleep(300 * time.Millisecond)
			return
		}
		w.WriteHeader(answers[id])
		fmt.Fprintf(w, `{"Name":"/%s","NetworkSettings":{"SandboxKey":"/run/docker/netns/%[1]s","Networks":{
			"lan":{"NetworkID":"net1","EndpointID":"ep-%[1]s","IPAddress":"10.0.0.2","IPPrefixLen":24},
			"other":{"NetworkID":"net2","EndpointID":"x"}}}}`, id)
	})
	server := httptest.NewServer(docker)
	defer server.Close()
	r := &repairer{api: &engineAPI{base: server.URL, patience: 100 * time.Millisecond}, driver: "lanyard", has: func(id string) bool { return id == "net4" }}
	for _, c := range []struct {
		name       string
		second     int // what Docker answers for c2; 0: nothing in time
		incomplete bool
		endpoints  int
	}{
		{"tells all", http.StatusOK, false, 3},
		{"has one no more", http.StatusNotFound, false, 2},
		{"is in trouble with one", http.StatusInternalServerError, true, 2},
		{"does not answer for one", 0, true, 2},
	} {
		answers = map[string]int{"c1": http.StatusOK, "c2": c.second, "c3": http.StatusOK}
		view, err := r.view(t.Context())
		if view == nil || view.Incomplete != c.incomplete || (err != nil) != c.incomplete || len(view.Endpoints) != c.endpoints || len(view.Networks) != 4 {
			t.Errorf("Docker %s: %+v, %v", c.name, view, err)
		}
	}
}
