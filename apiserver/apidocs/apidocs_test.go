package apidocs

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// answers is a handler as the library's: a hash and a time that a client may ask by.
func answers(status *int, asked *int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		*asked++
		if *status != http.StatusOK {
			http.Error(w, "not yet", *status)
			return
		}
		w.Header().Set("Etag", `"hash"`)
		w.Header().Set("Content-Type", "application/json")
		if r.Header.Get("If-None-Match") == `"hash"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, `{"paths":{}}`)
	}
}

func get(h http.Handler, path, knows string) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
	if knows != "" {
		r.Header.Set("If-None-Match", knows)
	}
	h.ServeHTTP(w, r)
	return w
}

func TestDocumentsAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made, asked, status := 0, 0, http.StatusOK
		l := newLate(func(m *muxOf) {
			made++
			m.Handle("/openapi/v2", answers(&status, &asked))
		})
		time.Sleep(2 * keep)
		if made != 0 {
			t.Fatal("documents were made that nobody asked for")
		}
		for range 5 { // in use for longer than they are kept
			if w := get(l, "/openapi/v2", ""); w.Code != http.StatusOK || w.Body.String() != `{"paths":{}}` {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			time.Sleep(keep / 2)
		}
		if made != 1 || l.made == nil {
			t.Fatalf("documents in use were made %d times", made)
		}
		time.Sleep(keep)
		if l.made != nil {
			t.Error("documents are kept that nobody asks for")
		}
		if w := get(l, "/openapi/v2", `"hash"`); w.Code != http.StatusNotModified || made != 2 {
			t.Errorf("asked again: %d, made %d times", w.Code, made)
		}
	})
}
