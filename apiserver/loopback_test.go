package apiserver

import (
	"context"
	"net/http"
	"testing"
)

// TestWatchesStartFromTheReplica checks which requests of components are let
// off from asking for the latest state.
func TestWatchesStartFromTheReplica(t *testing.T) {
	for query, want := range map[string]string{
		"watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan":                    "0",
		"watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=":   "0",
		"watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=12": "12",
		"watch=true&sendInitialEvents=false":                                                     "",
		"watch=true":                                                                             "",
		"labelSelector=sendInitialEvents%3Dtrue":                                                 "",
	} {
		var got string
		var handler http.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got = r.URL.Query().Get("resourceVersion")
		})
		s := &Server{}
		s.handler.Store(&handler)
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://x/api/v1/pods?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client(admin).Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got != want {
			t.Errorf("%s begins at %q, want %q", query, got, want)
		}
		if req.URL.RawQuery != query {
			t.Errorf("the caller's request became %s", req.URL.RawQuery)
		}
	}
}

// TestNestedRequestsAreTheirOwn checks that nothing of a request that is being
// served gets into one that is made meanwhile, except its end.
func TestNestedRequestsAreTheirOwn(t *testing.T) {
	type key struct{}
	ended := make(chan struct{})
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(key{}) != nil {
			t.Error("the other request's values are there")
		}
		if u, ok := userFrom(r.Context()); !ok || u != self {
			t.Errorf("user %v", u)
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(ended)
	})
	s := &Server{}
	s.handler.Store(&handler)
	outer, cancel := context.WithCancel(context.WithValue(context.WithValue(t.Context(), userKey{}, admin), key{}, "x"))
	req, err := http.NewRequestWithContext(outer, "GET", "http://x/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client(self).Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	<-ended
}
