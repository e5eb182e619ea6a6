package storage

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/storage"

	"kontiki/raftstore"
)

// linearize returns a view that is not older than any write acknowledged before
// the call. what names what is read, for the error.
func (s *Storage) linearize(ctx context.Context, what string) (raftstore.View, error) {
	quorum, cancel := s.awaitQuorum(ctx)
	defer cancel()
	view, err := s.store.Linearize(quorum)
	return view, s.quorumStatus(ctx, err, "read", what)
}

// viewNotOlder returns the view that a resourceVersion asks for in a get, and in
// a list or watch without an exact match:
//
//	""  the latest: a read-index round
//	"0" whatever this replica has, also without a quorum
//	N   this replica, once it has reached N
func (s *Storage) viewNotOlder(ctx context.Context, resourceVersion, what string) (raftstore.View, error) {
	if resourceVersion == "" {
		return s.linearize(ctx, what)
	}
	revision, err := s.versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		return raftstore.View{}, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	return s.viewReached(ctx, revision, what)
}

// viewReached returns a local view not older than revision. A replica behind it
// asks for the latest instead of waiting: that view holds every revision that
// anybody can have seen, so one that is not in it does not exist, and the client
// is told at once and not after a timeout.
func (s *Storage) viewReached(ctx context.Context, revision uint64, what string) (raftstore.View, error) {
	view := s.store.View()
	if err := s.store.Err(); errors.Is(err, raftstore.ErrDiffers) {
		return view, statusOf(err, "read", what)
	}
	if revision <= view.Revision() {
		return view, nil
	}
	view, err := s.linearize(ctx, what)
	if err != nil {
		return view, err
	}
	if revision > view.Revision() {
		return view, storage.NewTooLargeResourceVersionError(revision, view.Revision(), 0)
	}
	return view, nil
}

// viewAt returns the state at exactly revision. Its errors are the store's, with
// a replica that lags behind revision being caught up first.
func (s *Storage) viewAt(ctx context.Context, revision uint64, what string) (raftstore.View, error) {
	if _, err := s.viewReached(ctx, revision, what); err != nil {
		return raftstore.View{}, err
	}
	return s.store.ViewAt(ctx, revision)
}
