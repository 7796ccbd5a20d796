//go:build lab

package web

import (
	"fmt"
	"html"
	"regexp"
	"strings"
	"unicode/utf8"
)

var escape = regexp.MustCompile("\x1b\\[([0-9]+)m")

// terminal is a picture (SVG) of what a command prints on a terminal, with the colours that lanyard uses.
func terminal(command, printed string) string {
	lines := append([]string{"\x1b[2m$\x1b[0m " + command}, strings.Split(strings.TrimRight(printed, "\n"), "\n")...)
	columns := 0
	for _, l := range lines {
		columns = max(columns, utf8.RuneCountInString(escape.ReplaceAllString(l, "")))
	}
	// Each piece says how long it is, so that columns stand below each other with whatever font there is.
	const column, row, margin = 7.8, 19, 20
	width, height := column*float64(columns)+2*margin, row*len(lines)+2*margin+6
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" width="%[1]g" height="%[2]d" role="img" aria-labelledby="t">
<title id="t">What %s prints on a terminal</title>
<style>text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#e6ebf2;white-space:pre}
.a1{font-weight:700}.a2{fill:#94a1b2}.a31{fill:#ff8a80}.a32{fill:#4cc9a4}.a33{fill:#f0a860}.a34{fill:#6ea8ff}.a36{fill:#5cc8e0}</style>
<rect width="%.0[1]f" height="%[2]d" rx="12" fill="#11161d" stroke="#2d3744"/>
`, width, height, html.EscapeString(command))
	for i, l := range lines {
		code, at := "0", 0
		piece := func(text string) {
			n := utf8.RuneCountInString(text)
			if strings.TrimSpace(text) != "" {
				fmt.Fprintf(&b, `<text class="a%s" x="%.1f" y="%d" textLength="%.1f" xml:space="preserve">%s</text>`+"\n",
					code, margin+column*float64(at), margin+row*i+16, column*float64(n), html.EscapeString(text))
			}
			at += n
		}
		for {
			m := escape.FindStringSubmatchIndex(l)
			if m == nil {
				piece(l)
				break
			}
			piece(l[:m[0]])
			code, l = l[m[2]:m[3]], l[m[1]:]
		}
	}
	return b.String() + "</svg>\n"
}
