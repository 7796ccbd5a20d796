package lan

import (
	"errors"
	"fmt"
	"strings"
)

// The reasons for which a request is refused. Every error that leaves the
// engine wraps one of them or is a failure of the machine.
var (
	// ErrInvalid comes when what was asked for cannot be: an unknown option,
	// a malformed address, an impossible combination. Asking again will not
	// help.
	ErrInvalid = errors.New("invalid request")
	// ErrNotFound comes for a network or an endpoint that we have no record
	// of.
	ErrNotFound = errors.New("not found")
	// ErrConflict comes when the request is good but something that exists
	// stands against it: another network on the parent, an address in use.
	ErrConflict = errors.New("conflict")
	// ErrUnavailable comes when the machine lacks what the request needs: a
	// missing parent, a missing kernel module.
	ErrUnavailable = errors.New("unavailable")
)

// refusal reads as its text alone and is its reason for errors.Is, so that a
// user sees one sentence and the code above can still branch on it.
type refusal struct {
	text   string
	reason error
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return e.reason }

// Refusef makes an error with the given text for which errors.Is(err, reason)
// holds. reason is one of this package's sentinels.
//
// What a user typed is part of many texts, so a text that has grown beyond
// all use is cut.
func Refusef(reason error, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return &refusal{text, reason}
}

// maxText is the length in bytes to which a refusal's text is cut.
const maxText = 1000
