package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"
	"time"
)

func TestReadinessAsksSlackNowAndThen(t *testing.T) {
	now := time.Unix(1000, 0)
	var fault error
	asked := map[string]int{}
	check := func(name string) func(context.Context) error {
		return func(context.Context) error { asked[name]++; return fault }
	}
	h := &readiness{parts: []part{{"redis", check("redis"), 0}}, now: func() time.Time { return now }}
	slack := &readiness{parts: []part{{"slack", check("slack"), 30 * time.Second}}, now: func() time.Time { return now }}
	get := func(h *readiness, want int) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
		if w.Code != want {
			t.Errorf("%d %s, want %d", w.Code, w.Body, want)
		}
	}
	fault = errors.New("invalid_auth")
	for range 3 {
		get(h, 503)
		get(slack, 503)
	}
	if asked["redis"] != 3 || asked["slack"] != 1 {
		t.Errorf("asked while it fails: %v", asked)
	}
	fault = nil
	now = now.Add(badFor)
	get(slack, 200)
	fault = errors.New("away")
	now = now.Add(29 * time.Second)
	get(slack, 200)
	now = now.Add(time.Second)
	get(slack, 503)
	if asked["slack"] != 3 {
		t.Errorf("asked %v", asked)
	}
}
