package main

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/lanyard-net/lanyard/"

// The arrows of docs/ARCHITECTURE.md: what a package of ours may import of ours, and
// what it must not import at all, and why.
var arrows = map[string]struct {
	may, never []string
	why        string
}{
	"lan":       {never: []string{"os", "net/http", "log/slog", "golang.org/x/sys/unix"}, why: "it parses and checks; whoever calls it does the I/O and the logging"},
	"plan":      {may: []string{"lan"}, never: []string{"os", "net", "net/http", "log/slog", "golang.org/x/sys/unix"}, why: "it says what is to be; whoever makes it so does the I/O"},
	"pool":      {never: []string{"os", "net", "net/http", "log/slog", "sync", "golang.org/x/sys/unix"}, why: "it is arithmetic: whoever calls it locks, looks at the clock and does the I/O"},
	"netns":     {why: "it knows namespaces, not networks"},
	"request":   {why: "it knows an id, and not what it is for"},
	"serve":     {why: "it knows sockets, not what is served on them"},
	"store":     {may: []string{"lan"}, why: "a record is a word of lan's"},
	"link":      {may: []string{"lan", "netns"}, never: []string{"log/slog"}, why: "what the kernel says goes back to the engine, which decides"},
	"packet":    {may: []string{"netns"}, never: []string{"log/slog"}, why: "it knows frames, not what is in them"},
	"dhcp":      {may: []string{"lan", "netns", "packet"}, never: []string{"log/slog"}, why: "it asks servers and says what they answer; whoever asks decides"},
	"acd":       {may: []string{"lan", "netns", "packet"}, never: []string{"log/slog"}, why: "it says what it hears; whoever asks decides"},
	"antispoof": {never: []string{"log/slog", "github.com/vishvananda/netlink"}, why: "it makes programs; whoever has links puts them there"},
	"cluster":   {may: []string{"lan", "plan"}, why: "it is where hosts agree; whoever has an address decides"},
	"ipam":      {may: []string{"acd", "cluster", "dhcp", "lan", "link", "netns", "packet", "pool", "request", "store"}, never: []string{"net/http", "encoding/json"}, why: "it is below the engine, and serves any door"},
	"engine":    {may: []string{"acd", "antispoof", "ipam", "lan", "link", "netns", "store"}, never: []string{"net/http", "encoding/json"}, why: "the verbs serve any door"},
	"topology":  {may: []string{"engine", "ipam", "lan"}, never: []string{"os", "net", "net/http", "log/slog", "sync", "golang.org/x/sys/unix"}, why: "it draws what it is given"},
	"web":       {may: []string{"serve"}, why: "it serves a page and whatever handler it is given"},
	"docker":    {may: []string{"engine", "lan", "request"}, why: "a door calls verbs, and reaches around them for nothing"},
	"control":   {may: []string{"cluster", "engine", "ipam", "lan", "plan", "topology"}, why: "a door calls verbs, and reaches around them for nothing"},
	"doctor":    {may: []string{"acd", "cluster", "control", "dhcp", "engine", "ipam", "lan", "link", "netns", "packet"}, never: []string{"log/slog"}, why: "it looks and tells; whoever prints it or asks Docker is above"},
	"kerneltest": {
		may: []string{"netns"}, why: "every package's tests use it",
	},
}

func TestImports(t *testing.T) {
	internal := filepath.Join("..", "..", "internal")
	dirs, err := os.ReadDir(internal)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		rule, ok := arrows[dir.Name()]
		if !ok {
			t.Errorf("internal/%s has no place in the picture of docs/ARCHITECTURE.md", dir.Name())
			continue
		}
		files, err := filepath.Glob(filepath.Join(internal, dir.Name(), "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range parsed.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				ours, is := strings.CutPrefix(path, module+"internal/")
				if is && !slices.Contains(rule.may, ours) || slices.Contains(rule.never, path) || strings.HasPrefix(path, module+"e2e") {
					t.Errorf("%s imports %s: %s", file, path, rule.why)
				}
			}
		}
	}
}
