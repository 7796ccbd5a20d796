package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeDocker is an engine with these networks and containers, as its API shows them, and what it was asked to
// change. A container is on the networks that it says.
type fakeDocker struct {
	t          *testing.T
	networks   []map[string]any
	containers map[string]map[string]any
	refuse     string // the beginning of a change that it refuses
	asked      []string
}

func (d *fakeDocker) api() *engineAPI {
	srv := httptest.NewServer(d)
	d.t.Cleanup(srv.Close)
	return &engineAPI{base: srv.URL, patience: 5 * time.Second}
}

func (d *fakeDocker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply := func(v any) { _ = json.NewEncoder(w).Encode(v) }
	if r.Method != http.MethodGet {
		d.change(w, r)
		return
	}
	switch id, isOne := strings.CutPrefix(strings.TrimSuffix(r.URL.Path, "/json"), "/containers/"); {
	case r.URL.Path == "/networks":
		reply(d.networks)
	case r.URL.Path == "/version":
		reply(map[string]string{"ApiVersion": "1.51"})
	case r.URL.Path == "/containers/json":
		list := []map[string]string{}
		for id := range d.containers {
			list = append(list, map[string]string{"Id": id})
		}
		reply(list)
	case isOne && d.containers[id] != nil:
		reply(d.containers[id])
	default:
		http.Error(w, `{"message":"no such thing"}`, http.StatusNotFound)
	}
}

func (d *fakeDocker) change(w http.ResponseWriter, r *http.Request) {
	var body struct{ Container, Name, Driver string }
	_ = json.NewDecoder(r.Body).Decode(&body)
	what := strings.TrimSuffix(r.Method+" "+path.Base(r.URL.Path)+" "+body.Container+body.Driver, " "+moveNet+" ")
	d.asked = append(d.asked, what)
	if d.refuse != "" && strings.HasPrefix(what, d.refuse) {
		http.Error(w, `{"message":"no"}`, http.StatusConflict)
		return
	}
	on := func(id string) map[string]any {
		return d.containers[id]["NetworkSettings"].(map[string]any)["Networks"].(map[string]any)
	}
	switch {
	case r.Method == http.MethodDelete:
		d.networks = slices.DeleteFunc(d.networks, func(n map[string]any) bool { return n["Name"] == "lan" })
	case strings.HasPrefix(what, "POST disconnect"):
		delete(on(body.Container), "lan")
	case strings.HasPrefix(what, "POST connect"):
		on(body.Container)["lan"] = map[string]any{"NetworkID": "made"}
	default:
		d.networks = append(d.networks, map[string]any{"Id": "made", "Name": body.Name, "Driver": body.Driver})
	}
	_, _ = w.Write([]byte("{}"))
}

// decoded is what a text of JSON says.
func decoded(t *testing.T, text string) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

const (
	moveNet  = "aa0728abe9c17d70ab23b8625cdae245a7a901035be7a6384c612b784fe2d7f9"
	moveFull = `{"Id":"` + moveNet + `","Name":"lan","Scope":"local","IPAM":{"Driver":"default","Config":[{"Subnet":"10.0.0.0/24","Gateway":"10.0.0.1"}]},`
	moveOn   = `"State":{"Status":"running","Running":true},"Config":{"Labels":{}},"HostConfig":{"NetworkMode":"lan"},`
)

// What becomes of networks of all kinds: the command that makes the new one, and what is said of it.
func TestHowNetworksMove(t *testing.T) {
	const bare = moveFull + `"Driver":"macvlan","Options":{"parent":"eth1.100"}}`
	for _, tc := range []struct {
		name, network, container string
		back                     bool
		want                     string // the commands' end, or why not
		notes                    []string
	}{
		{name: "macvlan", network: bare,
			want: "docker network create -d lanyard --ipam-driver lanyard --subnet 10.0.0.0/24 --gateway 10.0.0.1 -o parent=eth1.100 lan"},
		{name: "all that there is", network: `{"Id":"` + moveNet + `","Name":"lan","Driver":"macvlan","Internal":true,"Attachable":true,"EnableIPv6":true,"Labels":{"a b":"it's"},"Options":{"macvlan_mode":"vepa","parent":"eth1"},` +
			`"IPAM":{"Driver":"default","Config":[{"Subnet":"10.0.0.0/24","IPRange":"10.0.0.128/25","Gateway":"10.0.0.1","AuxiliaryAddresses":{"nas":"10.0.0.9"}},{"Subnet":"fd00::/64"}]}}`,
			want: "docker network create -d lanyard --ipam-driver lanyard --ipv6 --internal --attachable --subnet 10.0.0.0/24 --ip-range 10.0.0.128/25 --gateway 10.0.0.1 --aux-address nas=10.0.0.9 --subnet fd00::/64 " +
				`--label 'a b=it'\''s' -o macvlan_mode=vepa -o parent=eth1 lan`},
		{name: "ipvlan whose mode is the default", network: moveFull + `"Driver":"ipvlan","Options":{"parent":"eth1"}}`, want: "-o ipvlan_mode=l2 -o parent=eth1 lan"},
		{name: "ipvlan l3", network: moveFull + `"Driver":"ipvlan","Options":{"parent":"eth1","ipvlan_mode":"l3"}}`, want: "-o ipvlan_mode=l3 -o parent=eth1 lan"},
		{name: "no parent", network: moveFull + `"Driver":"macvlan","Options":{"parent":"dm-aa0728abe9c1"}}`, want: "--gateway 10.0.0.1 lan"},
		{name: "what Docker does not read", network: moveFull + `"Driver":"macvlan","Options":{"parent":"eth1","macvlan_mod":"vepa"}}`, want: "--gateway 10.0.0.1 -o parent=eth1 lan",
			notes: []string{"option macvlan_mod=vepa is left out: Docker's driver does not read it"}},
		{name: "Compose", network: strings.Replace(bare, `"Name"`, `"Labels":{"com.docker.compose.project":"shop","com.docker.compose.network":"lan"},"Name"`, 1),
			want:  "--label com.docker.compose.network=lan --label com.docker.compose.project=shop -o parent=eth1.100 lan",
			notes: []string{`Compose project shop made the network, and finds it again by its name and labels; in its file change "driver: macvlan" to "driver: lanyard", and then docker compose up -d --force-recreate`}},
		{name: "a container that runs", network: bare,
			container: `{"Id":"c1","Name":"/web",` + moveOn + `"NetworkSettings":{"Networks":{"lan":{"NetworkID":"` + moveNet + `","IPAddress":"10.0.0.7","MacAddress":"02:42:0a:00:00:07","Aliases":["c1","www"],"GwPriority":3}}}}`,
			want:      "docker network connect --ip 10.0.0.7 --alias www --driver-opt mac_address=02:42:0a:00:00:07 --gw-priority 3 lan web"},
		{name: "no gateway", network: strings.Replace(bare, `,"Gateway":"10.0.0.1"`, "", 1),
			container: `{"Id":"c1","Name":"/web",` + moveOn + `"NetworkSettings":{"Networks":{"lan":{"NetworkID":"` + moveNet + `","IPAddress":"10.0.0.1"}}}}`,
			want:      "docker network create -d lanyard --ipam-driver lanyard --subnet 10.0.0.0/24 -o gateway=none -o parent=eth1.100 lan", notes: []string{"its containers have no gateway, and get none"}},
		{name: "a gateway that Docker chose", network: strings.Replace(bare, `,"Gateway":"10.0.0.1"`, "", 1),
			container: `{"Id":"c1","Name":"/web",` + moveOn + `"NetworkSettings":{"Networks":{"lan":{"NetworkID":"` + moveNet + `","IPAddress":"10.0.0.2","Gateway":"10.0.0.1"}}}}`,
			want:      "docker network create -d lanyard --ipam-driver lanyard --subnet 10.0.0.0/24 -o parent=eth1.100 lan"},
		{name: "a container that never ran", network: bare,
			container: `{"Id":"c1","Name":"/web","State":{"Status":"created"},"HostConfig":{"NetworkMode":"lan"},"NetworkSettings":{"Networks":{"lan":{"NetworkID":"","IPAMConfig":{"IPv4Address":"10.0.0.9"}}}}}`,
			want:      "docker network connect --ip 10.0.0.9 lan web"},
		{name: "a container that is elsewhere", network: bare,
			container: `{"Id":"c1","Name":"/web",` + moveOn + `"NetworkSettings":{"Networks":{"lan2":{"NetworkID":"other"}}}}`, want: "-o parent=eth1.100 lan"},
		{name: "paused", network: bare, container: `{"Id":"c1","Name":"/web","State":{"Status":"paused","Running":true},"NetworkSettings":{"Networks":{"lan":{"NetworkID":"` + moveNet + `"}}}}`,
			want: "container web is paused, and can be moved only while it runs or is stopped; try: docker unpause or docker stop web"},
		{name: "made for the ID", network: bare, container: `{"Id":"c1","Name":"/web","HostConfig":{"NetworkMode":"` + moveNet + `"},"NetworkSettings":{"Networks":{"lan":{"NetworkID":"` + moveNet + `"}}}}`,
			want: "container web was made for the network by its ID, which changes; try: docker rm, and docker run --network lan"},
		{name: "an option of the container's that is none", network: bare,
			container: `{"Id":"c1","Name":"/web",` + moveOn + `"NetworkSettings":{"Networks":{"lan":{"NetworkID":"` + moveNet + `","DriverOpts":{"speed":"9"}}}}}`, want: `container web: `},
		{name: "swarm", network: strings.Replace(bare, `"local"`, `"swarm"`, 1), want: "it is a network of Docker Swarm's"},
		{name: "config-only", network: strings.Replace(bare, `"Name"`, `"ConfigOnly":true,"Name"`, 1), want: "it is config-only: a template"},
		{name: "from config-only", network: strings.Replace(bare, `"Name"`, `"ConfigFrom":{"Network":"base"},"Name"`, 1), want: "it is made from config-only network base"},
		{name: "null IPAM", network: strings.Replace(bare, `"default"`, `"null"`, 1), want: "it has Docker's null IPAM driver"},

		{name: "back", back: true, network: moveFull + `"Driver":"lanyard","Options":{"parent":"eth1","vlan":"100","host_access":"true","acd":"off"}}`,
			want:  "docker network create -d macvlan --subnet 10.0.0.0/24 --gateway 10.0.0.1 -o macvlan_mode=bridge -o parent=eth1.100 lan",
			notes: []string{"option acd=off is left out: the built-in driver does not read it", "option host_access=true is left out: the built-in driver does not read it"}},
		{name: "back, ipvlan, lanyard's IPAM", back: true, network: strings.Replace(moveFull, "default", "lanyard", 1) + `"Driver":"lanyard:latest","Options":{"parent":"eth1","ipvlan_flag":"vepa"}}`,
			want: "docker network create -d ipvlan --subnet 10.0.0.0/24 --gateway 10.0.0.1 -o ipvlan_flag=vepa -o ipvlan_mode=l2 -o parent=eth1 lan"},
		{name: "back, DHCP", back: true, network: `{"Id":"` + moveNet + `","Name":"lan","Driver":"lanyard","Options":{"parent":"eth1"},"IPAM":{"Driver":"lanyard","Options":{"source":"dhcp"},"Config":[{"Subnet":"0.0.0.0/0"}]}}`,
			want: "a DHCP server gives its addresses, which no built-in driver does"},
		{name: "back, QinQ", back: true, network: moveFull + `"Driver":"lanyard","Options":{"parent":"eth1.200.100"}}`, want: "the built-in driver makes one tag of 802.1Q"},
		{name: "back, defined", back: true, network: moveFull + `"Driver":"lanyard","Labels":{"net.lanyard.plan":"x"},"Options":{"parent":"eth1"}}`, want: "it is defined for all hosts; try: lanyard network rm lan"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &fakeDocker{t: t, networks: []map[string]any{decoded(t, tc.network)}, containers: map[string]map[string]any{}}
			if tc.container != "" {
				d.containers["c1"] = decoded(t, tc.container)
			}
			api := d.api()
			states, err := look(t.Context(), &planner{api: api, driver: "lanyard", back: tc.back}, &mover{api: api, driver: "lanyard", dir: t.TempDir()}, nil)
			if err != nil || len(states) != 1 {
				t.Fatalf("%v, %v", states, err)
			}
			got := states[0].Refused
			if got == "" {
				got = states[0].Commands[len(states[0].Commands)-1]
				if i := slices.IndexFunc(states[0].Commands, func(c string) bool { return strings.HasPrefix(c, "docker network create") }); strings.HasPrefix(tc.want, "docker network create") {
					got = states[0].Commands[i]
				}
			}
			if got != tc.want && !strings.HasSuffix(got, tc.want) && !(states[0].Refused != "" && strings.HasPrefix(got, tc.want)) {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
			if diff := cmp.Diff(tc.notes, states[0].Notes); diff != "" {
				t.Errorf("notes (-want +got)\n%s", diff)
			}
			if len(d.asked) > 0 {
				t.Errorf("Docker was asked for changes: %v", d.asked)
			}
		})
	}
	// Two networks of one name.
	d := &fakeDocker{t: t, networks: []map[string]any{decoded(t, bare), decoded(t, strings.Replace(bare, moveNet, "bb", 1))}}
	api := d.api()
	states, err := look(t.Context(), &planner{api: api, driver: "lanyard"}, &mover{api: api, driver: "lanyard", dir: t.TempDir()}, []string{"lan"})
	if err != nil || len(states) != 2 || !strings.HasPrefix(states[0].Refused, "2 networks have its name") {
		t.Errorf("%+v, %v", states, err)
	}
}

// A step that fails before the new network is there undoes all; after it the others go on, and the same again ends
// it. Whatever was cut off, what is left is what is done.
func TestMovesThatFail(t *testing.T) {
	begin := func(refuse string) (*fakeDocker, *mover, *move) {
		d := &fakeDocker{t: t, refuse: refuse, networks: []map[string]any{decoded(t, moveFull+`"Driver":"macvlan","Options":{"parent":"eth1"}}`)}, containers: map[string]map[string]any{}}
		for _, id := range []string{"c1", "c2"} {
			d.containers[id] = decoded(t, `{"Id":"`+id+`","Name":"/`+id+`",`+moveOn+`"NetworkSettings":{"Networks":{"lan":{"NetworkID":"`+moveNet+`","IPAddress":"10.0.0.7"}}}}`)
		}
		api := d.api()
		v := &mover{api: api, driver: "lanyard", dir: t.TempDir()}
		states, err := look(t.Context(), &planner{api: api, driver: "lanyard"}, v, nil)
		if err != nil || states[0].move == nil {
			t.Fatalf("%+v, %v", states, err)
		}
		return d, v, states[0].move
	}
	run := func(v *mover, m *move) (said string, err error) {
		err = v.apply(t.Context(), m, func(format string, args ...any) { said += format + "\n" })
		return said, err
	}
	left := func(v *mover) int {
		begun, err := v.begun()
		if err != nil {
			t.Fatal(err)
		}
		return len(begun)
	}
	all := []string{"POST disconnect c1", "POST disconnect c2", "DELETE", "POST create lanyard", "POST connect c1", "POST connect c2"}
	for _, tc := range []struct {
		refuse string
		asked  []string
		err    string
		begun  int
	}{
		{"", all, "", 0},
		{"POST disconnect c2", []string{"POST disconnect c1", "POST disconnect c2", "POST connect c1"}, "network lan was not moved, and is as it was: docker network disconnect lan c2: docker: no", 0},
		{"DELETE", []string{"POST disconnect c1", "POST disconnect c2", "DELETE", "POST connect c1", "POST connect c2"}, "network lan was not moved, and is as it was: docker network rm lan: docker: no", 0},
		{"POST create lanyard", append(slices.Clone(all[:4]), "POST create macvlan", "POST connect c1", "POST connect c2"), "network lan was not moved, and is as it was: docker network create -d lanyard", 0},
		{"POST connect c1", all, "network lan: not all containers are connected", 1},
	} {
		d, v, m := begin(tc.refuse)
		_, err := run(v, m)
		if (err == nil) != (tc.err == "") || err != nil && !strings.HasPrefix(err.Error(), tc.err) {
			t.Errorf("%s: %v, want %s", tc.refuse, err, tc.err)
		}
		if diff := cmp.Diff(tc.asked, d.asked); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tc.refuse, diff)
		}
		if n := left(v); n != tc.begun {
			t.Errorf("%s: %d moves are noted, want %d", tc.refuse, n, tc.begun)
		}
		if tc.begun == 0 {
			continue
		}
		d.refuse, d.asked = "", nil
		states, err := look(t.Context(), &planner{api: v.api, driver: "lanyard"}, v, nil)
		if err != nil || len(states) != 1 || !states[0].Begun || !slices.Equal(states[0].Commands, []string{"docker network connect --ip 10.0.0.7 lan c1"}) {
			t.Errorf("what is left is %+v, %v", states, err)
			continue
		}
		if _, err := run(v, states[0].move); err != nil || left(v) != 0 || !slices.Equal(d.asked, []string{"POST connect c1"}) {
			t.Errorf("the rest: %v, asked %v", err, d.asked)
		}
	}
}
