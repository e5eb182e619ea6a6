package node

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"time"
)

// SocketPath is the unix socket on which a node answers whoever may open it.
func SocketPath(dataDir string) string { return filepath.Join(dataDir, "run", "kontiki.sock") }

// adminTimeout bounds what an operator's command waits for, such as a quorum.
const adminTimeout = 15 * time.Second

// adminLimit is the largest request, in bytes: a value of the store, in base64.
const adminLimit = 4 << 20

// errNotYet is returned for what needs the store while the node has none.
var errNotYet = errors.New("the node has no part in its cluster's store now; see kontiki status")

// AdminError is the body of an answer that is no success.
type AdminError struct {
	Error string `json:"error"`
}

// MemberChange is the body of a request to /members/ACTION; Message that of its answer.
type MemberChange struct {
	Node string `json:"node"` // name or id
}

// Message tells an operator what was done.
type Message struct {
	Message string `json:"message"`
}

// startAdmin answers on the node's unix socket, from before it has a cluster.
func (n *node) startAdmin(life *lifecycle) error {
	path := SocketPath(n.cfg.DataDir)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) { // of a process that died; the lock says that none lives
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { answer(w, n.status(r.Context()), nil) })
	mux.HandleFunc("GET /net", n.answerNet)
	for action, change := range map[string]func(context.Context, string) (string, error){
		"promote": n.promote, "demote": n.demote, "auto": n.automatic, "remove": n.remove,
	} {
		mux.HandleFunc("POST /members/"+action, func(w http.ResponseWriter, r *http.Request) {
			var in MemberChange
			if !n.question(w, r, &in) {
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), adminTimeout)
			defer cancel()
			text, err := change(ctx, in.Node)
			answer(w, Message{text}, err)
		})
	}
	n.adminStore(mux)
	n.adminSecret(mux)
	n.adminSnapshot(mux)
	for name, fault := range n.cfg.Faults.OnRequest {
		mux.HandleFunc("POST /fault/"+name, func(w http.ResponseWriter, r *http.Request) {
			var body json.RawMessage
			if n.question(w, r, &body) {
				answer(w, Message{"broken"}, fault(n.store, body))
			}
		})
	}
	mux.HandleFunc("POST /secrets/rotate-key", func(w http.ResponseWriter, r *http.Request) {
		if !n.question(w, r, &struct{}{}) {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), adminTimeout)
		defer cancel()
		id, err := rotateDataKey(ctx, n.store, n.charter.trust)
		answer(w, DataKeys{Current: id}, err)
	})
	adminProfiles(mux)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	life.start("admin socket", func(ctx context.Context) error {
		return serveUntil(ctx, server, func() error { return server.Serve(listener) })
	})
	return nil
}

// adminProfiles answers what Go's tools ask a process that uses too much of
// something: `curl --unix-socket run/kontiki.sock http://node/debug/pprof/heap`.
func adminProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

// question reads a request's body, of a request that needs the store.
func (n *node) question(w http.ResponseWriter, r *http.Request, body any) bool {
	if !n.stored.Load() {
		answer(w, nil, errNotYet)
		return false
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, adminLimit)).Decode(body); err != nil {
		answer(w, nil, err)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, body any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		body = AdminError{err.Error()}
	}
	json.NewEncoder(w).Encode(body)
}
