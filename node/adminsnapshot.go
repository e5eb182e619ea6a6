package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"kontiki/raftstore"
)

// SnapshotQuery is the body of a request to /snapshot, which answers an archive.
type SnapshotQuery struct {
	Local bool `json:"local,omitempty"` // what this replica knows, without a quorum
}

// SnapshotSecret is what opens the sealed values of a snapshot.
type SnapshotSecret struct {
	ID   string `json:"id"`
	Text string `json:"text"` // of the key's file
}

func (n *node) adminSnapshot(mux *http.ServeMux) {
	mux.HandleFunc("POST /snapshot", n.answerSnapshot)
	mux.HandleFunc("POST /snapshot/key", func(w http.ResponseWriter, r *http.Request) {
		if n.question(w, r, &struct{}{}) {
			id, text := n.charter.trust.KeyText()
			answer(w, SnapshotSecret{id, text}, nil)
		}
	})
	mux.HandleFunc("POST /recover/survey", func(w http.ResponseWriter, r *http.Request) {
		if n.question(w, r, &struct{}{}) {
			answer(w, n.survey(r.Context()), nil)
		}
	})
}

// answerSnapshot streams the state. What goes wrong before the first byte is told; what
// goes wrong later cuts the answer short, which the archive's own end shows.
func (n *node) answerSnapshot(w http.ResponseWriter, r *http.Request) {
	var q SnapshotQuery
	if !n.question(w, r, &q) {
		return
	}
	key, err := n.snapshotKey(r.Context(), q.Local)
	if err != nil {
		answer(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	info := raftstore.ArchiveInfo{Taken: n.now().UTC().Truncate(time.Second), Version: n.cfg.Version, KeyID: key}
	if _, err := n.store.WriteArchive(w, info); err != nil {
		n.log.Error("a snapshot was cut short", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// snapshotKey makes sure that the replica is not older than any acknowledged write, and
// returns the id of the key that a restore needs.
func (n *node) snapshotKey(ctx context.Context, local bool) (string, error) {
	if local {
		if err := n.store.Err(); err != nil {
			return "", err // before the first byte, so that it is told
		}
		return SnapshotKey(n.store.View())
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	view, err := n.store.Linearize(ctx)
	if errors.Is(err, raftstore.ErrNoQuorum) {
		err = fmt.Errorf("%w; --local saves what this node knows", err)
	}
	if err != nil {
		return "", err
	}
	return SnapshotKey(view)
}
