package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the pages name is there: the files that they link to or put in backquotes, the
// targets of make, the tests that hold a row.
func TestPagesNameWhatIsThere(t *testing.T) {
	root := filepath.Join("..", "..")
	var pages, tests []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"):
			pages = append(pages, path)
		case strings.HasSuffix(path, "_test.go"):
			tests = append(tests, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, page := range pages {
		if m := regexp.MustCompile(`(?m)^(<{7}|>{7}) `).FindString(read(page)); m != "" {
			t.Errorf("%s has marks of a merge: %s", page, m)
		}
	}
	makefile, code := read(filepath.Join(root, "Makefile")), ""
	for _, path := range tests {
		code += read(path)
	}
	exists := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	for _, kind := range []struct {
		name, pattern string
		there         func(page, word string) bool
	}{
		{"link", `\]\(([^)#:\s]+)`, func(page, word string) bool { return exists(filepath.Join(filepath.Dir(page), word)) }},
		{"file", "`((?:internal|e2e|cmd|docs|man|dist)/[^`*\\s,]*)`", func(_, word string) bool { return exists(filepath.Join(root, word)) }},
		{"target", "(?:`| {4}|`sudo |&& sudo )make ([a-z0-9-]+)", func(_, word string) bool { return strings.Contains(makefile, "\n"+word+":") }},
		{"test", "`((?:Test|Benchmark)[A-Z][A-Za-z0-9]*)`", func(_, word string) bool { return strings.Contains(code, "\nfunc "+word+"(") }},
	} {
		pattern, found := regexp.MustCompile(kind.pattern), 0
		for _, page := range pages {
			for _, m := range pattern.FindAllStringSubmatch(read(page), -1) {
				found++
				if !kind.there(page, m[1]) {
					t.Errorf("%s names the %s %s, which is not there", page, kind.name, m[1])
				}
			}
		}
		if found == 0 {
			t.Errorf("no page names a %s: the pattern finds nothing", kind.name)
		}
	}
}
