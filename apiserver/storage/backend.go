package storage

import (
	"context"

	"kontiki/raftstore"
)

// Backend is what this package needs of the store; *raftstore.Store fills it.
type Backend interface {
	Apply(ctx context.Context, txn raftstore.Txn) (raftstore.TxnResult, error)
	View() raftstore.View
	Linearize(ctx context.Context) (raftstore.View, error)
	ViewAt(ctx context.Context, revision uint64) (raftstore.View, error)
	Watch(prefix string, after uint64) (*raftstore.Watch, error)
	Compacted() uint64
	Err() error // why this replica is not to be read now
}
