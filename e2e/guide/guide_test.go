package guide

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(page, []byte(strings.ReplaceAll(text, "'''", "```")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# A page\n\n'''sh\n# on host 2\necho a\necho b\n'''\n\nprints\n\n'''text\na\nb\n'''\n\n    echo not this\n\n" +
		"'''yaml\n# x.yaml\na: 1\n'''\n'''sh after a reboot\n# on each host\ntrue\n'''\n")
	got, err := Read(page)
	want := []Step{
		{Line: 3, Host: "2", Script: "# on host 2\necho a\necho b", Wants: []string{"a", "b"}},
		{Line: 18, Script: "cat >x.yaml <<'END'\n# x.yaml\na: 1\nEND"},
		{Line: 22, Before: "after a reboot", Host: "each", Script: "# on each host\ntrue"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"no commands", "'''sh\ntrue\n", "'''sh\n'''", "'''text\na\n'''", "'''yaml\na: 1\n'''"} {
		write(bad)
		if got, err := Read(page); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
}

func TestMissing(t *testing.T) {
	const got = "LAN\n└─ eth0  8e:01:02:03:04:05\n   ├─ ● web  192.168.1.230  02:42:c0:a8:01:e6  joined\n   └─ ● db   192.168.1.224  joined\n1 packet, time=0.071 ms, in 260µs"
	for _, c := range []struct{ page, missing string }{
		{"LAN\n└─ eth0  3c:ec:ef:12:a0:0a\n├─ ● web 192.168.1.230  12:42:00:00:00:01  joined", ""},
		{"└─ ● db ... joined\ntime=9.5 ms, in 1.4ms", ""},
		{"web  192.168.1.231", "web  192.168.1.231"},
		{"db\nweb", "web"},
		{"db ... created", "db ... created"},
		{"eth1", "eth1"},
		{"02:00:00:00:00:01", "02:00:00:00:00:01"},
	} {
		if m := Missing(strings.Split(c.page, "\n"), got); m != c.missing {
			t.Errorf("%q: missing %q, want %q", c.page, m, c.missing)
		}
	}
}

// Each page is run by a test, and each example of Compose; one that goes with a page is the page's.
func TestAllAreRun(t *testing.T) {
	root := filepath.Join("..", "..")
	all := func(pattern string) []string {
		t.Helper()
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v, %v", pattern, paths, err)
		}
		return paths
	}
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	var tests string
	for _, path := range all("e2e/*/guides_test.go") {
		tests += read(path)
	}
	for _, path := range append(all("docs/guides/*.md"), all("docs/compose/*.yaml")...) {
		name := filepath.Base(path)
		page := filepath.Join(root, "docs", "guides", strings.TrimSuffix(name, ".yaml")+".md")
		if _, err := os.Stat(page); err == nil && strings.HasSuffix(name, ".yaml") {
			if !strings.Contains(read(page), "```yaml\n# compose.yaml\n"+read(path)+"```\n") {
				t.Errorf("%s has not the file %s", page, path)
			}
		} else if !strings.Contains(tests, `"`+name+`"`) {
			t.Errorf("no test runs %s", name)
		}
	}
}
