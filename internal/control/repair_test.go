package control

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRepair(t *testing.T) {
	var asked []bool
	src := Source{Repair: func(_ context.Context, dry bool) Repair {
		asked = append(asked, dry)
		return Repair{Notes: []string{"a note"}}
	}}
	h := NewHandler(src, slog.New(slog.DiscardHandler))
	for _, x := range []struct {
		query, want string
		status      int
	}{
		{"", `{"steps":[],"notes":["a note"]}`, http.StatusOK},
		{"?dry_run=true", `{"steps":[]`, http.StatusOK},
		{"?dry_run=perhaps", "neither true nor false", http.StatusBadRequest},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/repair"+x.query, nil))
		if w.Code != x.status || !strings.Contains(w.Body.String(), x.want) {
			t.Errorf("%s: %d %s", x.query, w.Code, w.Body)
		}
	}
	if len(asked) != 2 || asked[0] || !asked[1] {
		t.Errorf("asked %v", asked)
	}
}
