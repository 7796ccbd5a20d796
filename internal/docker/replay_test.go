package docker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A line of a recording: a command that was typed, or a call with the answer
// that the recorder gave.
type recorded struct {
	Step    string          `json:"step"`
	Method  string          `json:"method"`
	Request json.RawMessage `json:"request"`
	Answer  map[string]any  `json:"answer"`
}

func readRecording(t testing.TB, name string) []recorded {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out []recorded
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r recorded
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, r)
	}
	return out
}

func recordings(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/recorded/*.jsonl")
	if err != nil || len(names) != 5 {
		t.Fatalf("recordings: %q, %v; want 5", names, err)
	}
	return names
}

// Options that the recorder understood and we do not.
var recordersOptions = []string{"x"}

// strip removes the recorder's options and says which there were.
func strip(t *testing.T, request []byte) (out []byte, was string) {
	t.Helper()
	var q map[string]any
	if err := json.Unmarshal(request, &q); err != nil {
		t.Fatal(err)
	}
	options, _ := q["Options"].(map[string]any)
	generic, _ := options["com.docker.network.generic"].(map[string]any)
	for _, m := range []map[string]any{options, generic} {
		for _, key := range recordersOptions {
			if _, ok := m[key]; ok {
				was = key
				delete(m, key)
			}
		}
	}
	if was == "" {
		return request, ""
	}
	out, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	return out, was
}

// renamed gives a request our name of a pool in place of the recorder's.
func renamed(t *testing.T, request []byte, pools map[string]string) []byte {
	t.Helper()
	var q map[string]any
	if err := json.Unmarshal(request, &q); err != nil {
		t.Fatal(err)
	}
	id, ok := q["PoolID"].(string)
	if !ok {
		return request
	}
	q["PoolID"] = pools[id]
	out, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Whole container lives, as real engines asked for them.
func TestReplay(t *testing.T) {
	for _, name := range recordings(t) {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".jsonl"), func(t *testing.T) {
			h := newHost()
			d := newDoor(h.verbs())
			step, refused, pools := "", 0, map[string]string{}
			seen := map[string]int{}
			for _, r := range readRecording(t, name) {
				if r.Step != "" {
					step = r.Step
				}
				if r.Method == "" {
					continue
				}
				request, was := strip(t, r.Request)
				request = renamed(t, request, pools)
				if was != "" {
					before := h.String()
					status, answer := d.ask(t, "POST", r.Method, string(r.Request))
					if text := user(r.Method, status, answer); !strings.Contains(text, `option "`+was+`"`) {
						t.Errorf("%s\n%s with option %s: docker prints %q", step, r.Method, was, text)
					}
					if h.String() != before {
						t.Errorf("%s\n%s was refused and left\n%s", step, r.Method, h)
					}
					refused++
				}
				if addr, ok := r.Answer["Address"].(string); ok {
					h.next = netip.MustParsePrefix(addr)
				}
				status, answer := d.ask(t, "POST", r.Method, string(request))
				if text := user(r.Method, status, answer); text != "" {
					t.Errorf("%s\n%s %s: docker prints %q", step, r.Method, request, text)
				}
				if id, ok := answer["PoolID"].(string); ok {
					pools[r.Answer["PoolID"].(string)] = id
				}
				seen[r.Method]++
				checkAnswer(t, step, r.Method, request, answer)
			}
			// The 20.10 engine was killed at the end and did not come back, so
			// nobody took the last container and the networks down.
			left := 0
			if strings.Contains(name, "20.10") {
				left = 10
			}
			if got := strings.Count(h.String(), "\n"); got != left {
				t.Errorf("after the whole life there are %d things, want %d:\n%s", got, left, h)
			}
			for _, m := range []string{"CreateNetwork", "DeleteNetwork", "CreateEndpoint", "Join", "EndpointOperInfo", "Leave", "DeleteEndpoint",
				"RequestPool", "ReleasePool", "RequestAddress", "ReleaseAddress"} {
				if seen["NetworkDriver."+m]+seen["IpamDriver."+m] == 0 {
					t.Errorf("%s was not in the recording", m)
				}
			}
			if refused == 0 {
				t.Errorf("no request was refused; the recording has options that are not ours")
			}
		})
	}
}

// checkAnswer checks what the engine checks of an answer.
func checkAnswer(t *testing.T, step, method string, request []byte, answer map[string]any) {
	t.Helper()
	var q struct {
		Interface map[string]string
	}
	if err := json.Unmarshal(request, &q); err != nil {
		t.Fatal(err)
	}
	switch method {
	case "NetworkDriver.CreateEndpoint":
		got, _ := answer["Interface"].(map[string]any)
		for field := range got {
			if q.Interface[field] != "" {
				t.Errorf("%s\nanswer repeats %s, which the engine had filled", step, field)
			}
		}
		if q.Interface["MacAddress"] == "" && got["MacAddress"] == nil {
			t.Errorf("%s\nanswer has no MAC address: %v", step, answer)
		}
	case "NetworkDriver.Join":
		name, _ := answer["InterfaceName"].(map[string]any)
		if name["SrcName"] == nil || name["DstPrefix"] == nil || answer["DisableGatewayService"] != true {
			t.Errorf("%s\nJoin answered %v", step, answer)
		}
	case "NetworkDriver.EndpointOperInfo":
		if v, ok := answer["Value"].(map[string]any); !ok || len(v) != 0 {
			t.Errorf("%s\nEndpointOperInfo answered %v", step, answer)
		}
	}
}
