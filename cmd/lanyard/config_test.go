package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lanyard-net/lanyard/internal/cluster"
)

// check runs lanyard daemon --check with a configuration file, "" for none, and returns what it
// prints.
func check(t *testing.T, text string, args ...string) (string, error) {
	t.Helper()
	if text != "" {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	var out strings.Builder
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(append([]string{"daemon", "--check"}, args...))
	err := root.Execute()
	return out.String(), err
}

// The example in the documentation is a file that the daemon takes, and has all there is.
func TestConfigExample(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	flags := settings(newDaemon(&globals{}).Flags())
	names := append(flags, newRoot().PersistentFlags().Lookup("control-socket"))
	values, err := parseConfig(text, names)
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range names {
		if values[flag.Name] == "" {
			t.Errorf("%s is not in the example", flag.Name)
		}
		if flag.DefValue != "" && values[flag.Name] != flag.DefValue {
			t.Errorf("%s is %s in the example, and %s by default", flag.Name, values[flag.Name], flag.DefValue)
		}
	}
	// With what is a comment in it as well.
	values, err = parseConfig([]byte(strings.ReplaceAll(string(text), "\n  # ", "\n  ")), names)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Parse(values["store"])
	if err != nil || len(c.Endpoints) != 3 || c.Endpoints[2] != "10.0.0.3:2379" || c.Prefix != "/lanyard" || !c.TLS || c.CA == "" || c.Cert == "" || c.Key == "" || c.User != "lanyard" || c.PasswordFile == "" {
		t.Errorf("%s is %+v, %v", values["store"], c, err)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := check(t, strings.ReplaceAll(string(text), "/etc/lanyard/page-token", token)); err != nil || !strings.Contains(out, "etcd://10.0.0.1,10.0.0.2,10.0.0.3/lanyard") {
		t.Errorf("%s, %v", out, err)
	}
}

// What is typed goes before the environment, that before the file, and that before what is so by
// default.
func TestConfigOrder(t *testing.T) {
	file := "log-level: warn\nstate-dir: /srv/lanyard\ncontrol-socket: /run/of-the-file\n"
	out, err := check(t, file, "--state-dir", "/typed")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"log-level|warn|config.yaml", "state-dir|/typed|--state-dir", "control-socket|/run/of-the-file|config.yaml", "log-format|text|default", "store|-|default"} {
		parts := strings.Split(want, "|")
		found := false
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			found = found || len(f) == 3 && f[0] == parts[0] && f[1] == parts[1] && strings.HasSuffix(f[2], parts[2])
		}
		if !found {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	t.Setenv(envSocket, "/run/of-the-environment")
	if out, err := check(t, file); err != nil || !strings.Contains(out, "/run/of-the-environment") || strings.Contains(out, "/run/of-the-file") {
		t.Errorf("%s, %v", out, err)
	}
	if out, err := check(t, "# nothing\n", "--json"); err != nil || !strings.Contains(out, `"from": "default"`) {
		t.Errorf("%s, %v", out, err)
	}
}

// What cannot be meant is refused, with where it is.
func TestConfigRefused(t *testing.T) {
	for text, says := range map[string]string{
		"stor: etcd://a\n":                             `line 1: unknown key "stor"; did you mean store?`,
		"log-level: info\nwhatever: 3\n":               `line 2: unknown key "whatever"; known are`,
		"config: /other\n":                             `unknown key "config"`,
		"log-level: loud\n":                            `log level "loud"`,
		"log-level: [info]\n":                          `line 1: key "log-level": want text`,
		"state-dir:\n":                                 `line 1: key "state-dir": want text`,
		"host-name: a\nhost-name: b\n":                 `line 2: key "host-name" is there twice, in line 1 as well`,
		"- store\n":                                    "line 1: want keys with values",
		"store: [a\n":                                  "line 1",
		"log-level: info\n---\nlog-level: warn\n":      "more than one document",
		"log-level: info\nstore: http://a\n":           "line 2: store: it begins with etcd://",
		"store:\n  endpoints: [a]\n  perfix: x\n":      `line 3: unknown key "store.perfix"; did you mean store.prefix?`,
		"store:\n  endpoints: [a, [b]]\n":              `line 2: key "store.endpoints": want text`,
		"store:\n  prefix: x\n":                        `line 2: key "store.endpoints" is missing`,
		"store:\n  endpoints: [a]\n  tls: maybe\n":     `line 3: key "store.tls": it is on or off`,
		"store:\n  endpoints: [a]\n  user: x\n":        "user and password-file belong together",
		"store:\n  endpoints: a\n  password: secret\n": `line 3: unknown key "store.password"`,
		"store:\n  endpoints: a\n  ca: /nowhere\n":     "/nowhere",
	} {
		if out, err := check(t, text); err == nil || !strings.Contains(err.Error(), says) || out != "" {
			t.Errorf("%q: %v does not say %s; printed: %q", text, err, says, out)
		}
	}
	if _, err := check(t, "", "--config", "/nowhere/config.yaml"); err == nil || !strings.Contains(err.Error(), "/nowhere/config.yaml") {
		t.Errorf("a file that is named and is not there: %v", err)
	}
	if _, err := check(t, "", "--config", t.TempDir()); err == nil {
		t.Error("a folder is taken for a file")
	}
}
