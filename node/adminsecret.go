package node

import (
	"context"
	"net/http"

	"kontiki/pki"
)

// SecretChange is the body of a request to /secret/rotate; an empty Secret has the node
// make one.
type SecretChange struct {
	Secret string `json:"secret,omitempty"`
}

// SecretState tells how far the join secret has come in being changed.
type SecretState struct {
	Change uint64   `json:"change"` // counts the changes that were begun
	Phase  string   `json:"phase"`  // install, use, done
	Behind []string `json:"behind,omitempty"`
}

// SecretText is the join secret as it stands in a file.
type SecretText struct {
	Secret string `json:"secret"`
}

func (n *node) secretState() SecretState {
	r := n.rotation()
	s := SecretState{Change: r.Generation(), Phase: string(r.Phase())}
	if r.Phase() != pki.PhaseDone {
		s.Behind = n.behind(r)
	}
	return s
}

func (n *node) adminSecret(mux *http.ServeMux) {
	mux.HandleFunc("POST /secret/rotate", func(w http.ResponseWriter, r *http.Request) {
		var in SecretChange
		if !n.question(w, r, &in) {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), adminTimeout)
		defer cancel()
		secret := pki.NewSecret()
		if in.Secret != "" {
			var err error
			if secret, err = pki.ParseSecret([]byte(in.Secret), "the file"); err != nil {
				answer(w, nil, err)
				return
			}
		}
		next, err := n.rotateSecret(ctx, secret)
		answer(w, SecretState{Change: next.Generation(), Phase: string(next.Phase())}, err)
	})
	mux.HandleFunc("POST /secret/state", func(w http.ResponseWriter, r *http.Request) {
		if n.question(w, r, &struct{}{}) {
			answer(w, n.secretState(), nil)
		}
	})
	mux.HandleFunc("POST /secret/show", func(w http.ResponseWriter, r *http.Request) {
		if n.question(w, r, &struct{}{}) {
			answer(w, SecretText{n.rotation().Secret.Text()}, nil)
		}
	})
}
