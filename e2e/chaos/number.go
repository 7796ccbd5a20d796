package chaos

import (
	"os"
	"strconv"
	"testing"
)

// Number is the number in an environment variable, or another one where it is not set.
func Number(t testing.TB, variable string, unset uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return unset
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}
