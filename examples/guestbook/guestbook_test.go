package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGuestbook(t *testing.T) {
	dir := t.TempDir()
	var stores []string
	var opened []*store
	for _, name := range []string{"a", "b"} {
		s, err := openStore(filepath.Join(dir, name, "entries"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		server := httptest.NewServer(s)
		defer server.Close()
		stores, opened = append(stores, server.URL), append(opened, s)
	}
	front := httptest.NewServer(newPage(stores))
	defer front.Close()
	for _, name := range []string{"ada", "ben", "cem", "dot", "eve", "fay"} {
		if err := post(t.Context(), noRedirect(), front.URL+"/", url.Values{"name": {name}, "message": {"<b>hi</b>"}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(opened[0].all()) == 0 || len(opened[1].all()) == 0 {
		t.Errorf("entries are not spread: %d and %d", len(opened[0].all()), len(opened[1].all()))
	}
	if err := post(t.Context(), noRedirect(), front.URL+"/", url.Values{"name": {"ada"}}); err == nil || !strings.Contains(err.Error(), "a message are needed") {
		t.Errorf("an entry without a message: %v", err)
	}
	w := httptest.NewRecorder()
	front.Config.Handler.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for _, want := range []string{"6 entries", "<b>ada</b>", "&lt;b&gt;hi&lt;/b&gt;"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the page lacks %q:\n%s", want, w.Body)
		}
	}
}

// TestStoreAfterCrash wants all that was acknowledged, and no half of what was not.
func TestStoreAfterCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "entries")
	s, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.add(entry{Name: "ada", Message: "one"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.file.WriteAt([]byte(`{"name":"ben","mess`), s.size); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if s, err = openStore(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.add(entry{Name: "cem", Message: "two"}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	for i, want := range []string{"ada", "cem"} {
		var e entry
		if err := json.Unmarshal([]byte(lines[i]), &e); err != nil || e.Name != want {
			t.Errorf("line %d is of %q, not of %s: %v", i+1, e.Name, want, err)
		}
	}
	if err := os.WriteFile(path, []byte("no entry\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(path); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a damaged file: %v", err)
	}
}

func noRedirect() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
