package node

import (
	"bufio"
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kontiki/pki"
	"kontiki/raftstore/raftstoretest"
)

// ask posts to the admin interface and decodes the answer.
func ask(t *testing.T, url, action string, q StoreQuery) (out struct {
	StoreAnswer
	AdminError
}) {
	t.Helper()
	body, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(url+"/store/"+action, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestStoreByTheAdminSocket(t *testing.T) {
	n := &node{store: raftstoretest.New(t), log: slog.New(slog.DiscardHandler)}
	mux := http.NewServeMux()
	n.adminStore(mux)
	server := httptest.NewServer(mux)
	defer server.Close()

	if got := ask(t, server.URL, "get", StoreQuery{Key: "/a"}); got.Error != errNotYet.Error() {
		t.Errorf("before the store is open: %+v", got)
	}
	n.stored.Store(true)
	put := ask(t, server.URL, "put", StoreQuery{Key: "/a/1", Value: []byte("one\x00")})
	ask(t, server.URL, "put", StoreQuery{Key: "/a/2", Value: []byte("two")})
	ask(t, server.URL, "put", StoreQuery{Key: "/b", Value: []byte("three")})
	if got := ask(t, server.URL, "get", StoreQuery{Key: "/a/1"}); got.Error != "" || string(got.KVs[0].Value) != "one\x00" || got.KVs[0].ModRevision != put.Revision {
		t.Errorf("get: %+v", got)
	}
	if got := ask(t, server.URL, "list", StoreQuery{Prefix: "/a/", Local: true}); len(got.KVs) != 2 || got.KVs[1].Key != "/a/2" {
		t.Errorf("list: %+v", got)
	}
	if got := ask(t, server.URL, "list", StoreQuery{Limit: 1}); len(got.KVs) != 1 {
		t.Errorf("list with a limit: %+v", got)
	}
	if got := ask(t, server.URL, "delete", StoreQuery{Key: "/nothing"}); got.Error != errNotFound.Error() {
		t.Errorf("delete of nothing: %+v", got)
	}
	if got := ask(t, server.URL, "put", StoreQuery{}); got.Error != errNoKey.Error() {
		t.Errorf("put without a key: %+v", got)
	}

	resp, err := http.Post(server.URL+"/store/watch", "application/json", strings.NewReader(`{"prefix":"/a/","after":1}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ask(t, server.URL, "delete", StoreQuery{Key: "/a/2"})
	lines := bufio.NewScanner(resp.Body)
	var seen []string
	for len(seen) < 3 && lines.Scan() {
		var kv StoreKV
		if err := json.Unmarshal(lines.Bytes(), &kv); err != nil {
			t.Fatal(err)
		}
		if kv.Deleted {
			kv.Key = "-" + kv.Key
		}
		seen = append(seen, kv.Key)
	}
	if got := strings.Join(seen, " "); got != "/a/1 /a/2 -/a/2" {
		t.Errorf("the watch saw %q", got)
	}
}

func TestResetFormation(t *testing.T) {
	dir := t.TempDir()
	promises := filepath.Join(dir, "ring", "formation.json")
	if err := pki.WriteFile(promises, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := ResetFormation(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(promises); !os.IsNotExist(err) {
		t.Errorf("the promises are still there: %v", err)
	}
	if err := ResetFormation(dir); err != nil {
		t.Errorf("again: %v", err)
	}
	_, admission := newAdmission(t, pki.NewID())
	if _, err := enter(dir, admission); err != nil {
		t.Fatal(err)
	}
	if err := ResetFormation(dir); err == nil || !strings.Contains(err.Error(), "belongs to cluster") {
		t.Errorf("of a member: %v", err)
	}
}
