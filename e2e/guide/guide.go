// Package guide reads pages whose commands are to be typed as they stand, so that tests type them.
//
//	```sh             commands; what stands behind "sh" has to be done before
//	```yaml           a file, whose name is the comment in its first line
//	```text           what the commands above print, or some lines of it
//
// A first line "# on host 2" or "# on each host" says where. Blocks of other kinds are for the eye.
package guide

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Images is a script that gives a lab's host the images that pages name, all of busybox:lab. They serve a page that says
// nginx: no registry is asked.
const Images = `set -e
id=$(docker create busybox:lab)
docker export $id | docker import --change 'CMD ["sh", "-c", "trap : TERM; mkdir -p /www; echo Welcome to nginx! >/www/index.html; httpd -f -p 80 -h /www & wait"]' - nginx
docker rm $id
for name in alpine pihole/pihole ghcr.io/home-assistant/home-assistant:stable eclipse-mosquitto; do docker tag nginx $name; done`

// Step is a block of commands, or a file that is written by one.
type Step struct {
	// Line is that of the block in the page.
	Line int
	// Before is what has to be done before, as the page says it; "" for nothing.
	Before string
	// Host is "1", "2" or "each"; "" where the page has one host.
	Host string
	// Script is for a shell.
	Script string
	// Wants are the lines that it is to print.
	Wants []string
}

var (
	where    = regexp.MustCompile(`^# on (?:host (\d)|(each) host)\b`)
	fileName = regexp.MustCompile(`^# ([\w./-]+)$`)
)

// Read reads a page. A page without commands is an error.
func Read(path string) (steps []Step, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	for i := 0; i < len(lines); i++ {
		info, is := strings.CutPrefix(lines[i], "```")
		if !is {
			continue
		}
		at := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		if i >= len(lines) || at == i {
			return nil, fmt.Errorf("%s:%d: block without an end, or empty", path, at)
		}
		block := lines[at:i]
		kind, before, _ := strings.Cut(info, " ")
		s := Step{Line: at, Before: before, Script: strings.Join(block, "\n")}
		if m := where.FindStringSubmatch(block[0]); m != nil {
			s.Host = m[1] + m[2]
		}
		switch kind {
		case "sh":
			steps = append(steps, s)
		case "yaml":
			m := fileName.FindStringSubmatch(block[0])
			if m == nil {
				return nil, fmt.Errorf("%s:%d: the file has no name in its first line", path, at)
			}
			s.Script = fmt.Sprintf("cat >%s <<'END'\n%s\nEND", m[1], s.Script)
			steps = append(steps, s)
		case "text":
			if len(steps) == 0 {
				return nil, fmt.Errorf("%s:%d: output of no command", path, at)
			}
			last := &steps[len(steps)-1]
			last.Wants = append(last.Wants, block...)
		}
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("%s: no commands", path)
	}
	return steps, nil
}

// varies is what no two runs print alike: MAC addresses but for those that pages type, which begin with 02:00:00, IDs,
// how long something took or lasts.
var varies = regexp.MustCompile(`\b(?:[0-9a-f]{2}(?::[0-9a-f]{2}){5}|[0-9a-f]{12,64}|[0-9.]+ ?(?:µs|ms|s|m|h|m[0-9]+s|h[0-9]+m))\b`)

func plain(line string) string {
	line = varies.ReplaceAllStringFunc(line, func(word string) string {
		if strings.HasPrefix(word, "02:00:00:") {
			return word
		}
		return "~"
	})
	return strings.Join(strings.Fields(line), " ")
}

// Missing is the first line of wants that got does not have: each has to be there, in this order, with all of its
// words. "..." stands for anything, MAC addresses, IDs and times for any others.
func Missing(wants []string, got string) string {
	lines := strings.Split(got, "\n")
	for _, want := range wants {
		parts := strings.Split(plain(want), "...")
		for {
			if len(lines) == 0 {
				return want
			}
			rest, found := plain(lines[0]), true
			lines = lines[1:]
			for _, p := range parts {
				_, rest, found = strings.Cut(rest, strings.TrimSpace(p))
				if !found {
					break
				}
			}
			if found {
				break
			}
		}
	}
	return ""
}

// Follow types what the page docs/guides/NAME says, and holds what is printed against what the page shows. run runs
// a script on a host; before does what the page says comes before a step. It ends at the first command that fails.
func Follow(t *testing.T, name string, before map[string]func(), run func(host, script string) (string, error)) {
	t.Helper()
	steps, err := Read(filepath.Join("..", "..", "docs", "guides", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if s.Before != "" {
			do, known := before[s.Before]
			if !known {
				t.Fatalf("%s:%d: nobody knows what %q is", name, s.Line, s.Before)
			}
			do()
		}
		hosts := []string{s.Host}
		if s.Host == "each" {
			hosts = []string{"1", "2"}
		}
		for _, h := range hosts {
			got, err := run(h, "set -e\n"+s.Script)
			t.Logf("%s:%d, host %s\n%s\n----\n%s", name, s.Line, h, s.Script, got)
			if err != nil {
				t.Fatalf("%s:%d: %v", name, s.Line, err)
			}
			if m := Missing(s.Wants, got); m != "" {
				t.Errorf("%s:%d: not printed: %s", name, s.Line, m)
			}
		}
	}
}
