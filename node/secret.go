package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kontiki/gossip"
	"kontiki/pki"
	"kontiki/raftstore"
)

// The join secret can be changed while the cluster lives. The truth is a record in the
// store, which the leader moves on by a step once all members that answer have taken
// the last (pki.Rotation says what the steps are). Every node takes a step in this
// order: on disk, at its port, in the ring; then the others hear of it in the ring.

// secretKey is where the store holds the join secret, sealed, once it was changed.
const secretKey = "/kontiki/join-secret"

// secretRetry is the pause after a step that could not be stored.
const secretRetry = 5 * time.Second

func ownSecretPath(dir string) string { return filepath.Join(dir, "join-secret") }

// loadSecret finds the join secret that counts: of a member, the one on disk if it was
// changed since the node was given one; else the one in the user's file, or the node's
// own, which is made when the user gave none.
func (n *node) loadSecret() (pki.Rotation, error) {
	c, err := loadCharter(n.cfg.DataDir)
	if err != nil && !errors.Is(err, errBlank) {
		return pki.Rotation{}, err
	}
	if err == nil {
		if r, found, err := c.trust.LoadRotation(n.cfg.DataDir); err != nil || found {
			return r, err
		}
	}
	var r pki.Rotation
	if n.cfg.SecretFile != "" {
		r.Secret, err = pki.ReadSecret(n.cfg.SecretFile)
	} else {
		r.Secret, err = pki.OwnSecret(ownSecretPath(n.cfg.DataDir))
	}
	return r, err
}

func ringKeys(r pki.Rotation) gossip.Keys {
	secrets := r.Secrets()
	keys := gossip.Keys{Step: r.Step, Primary: secrets[0].RingKey()}
	if len(secrets) > 1 {
		keys.Also = secrets[1].RingKey()
	}
	return keys
}

// rotation is the join secret that this node uses now.
func (n *node) rotation() pki.Rotation { return *n.secret.Load() }

// takeSecret takes a later step of the join secret; an earlier one, or the same, changes
// nothing.
func (n *node) takeSecret(r pki.Rotation) error {
	n.secretMu.Lock()
	defer n.secretMu.Unlock()
	if r.Step <= n.rotation().Step {
		return nil
	}
	if err := n.charter.trust.WriteRotation(n.cfg.DataDir, r); err != nil {
		return err
	}
	n.port.SetSecrets(r.Secrets())
	if err := n.ring.SetKeys(ringKeys(r)); err != nil {
		return err
	}
	n.secret.Store(&r) // last: what failed before is done again
	n.log.Info("the join secret is being changed", "change", r.Generation(), "phase", r.Phase())
	n.problems.solvedAll("secret/")
	if err := n.keepOwnSecret(); err != nil {
		n.log.Warn("the file with this node's join secret holds the old one; kontiki secret show prints the new one", "err", err)
	}
	if text := n.secretFileProblem(); text != "" {
		n.log.Warn(text)
	}
	return nil
}

// keepOwnSecret keeps the file true that holds the secret of a node which made it
// itself: people copy it to other machines. A file that the user gave is the user's.
func (n *node) keepOwnSecret() error {
	r := n.rotation()
	if n.cfg.SecretFile != "" || r.Step == 0 {
		return nil
	}
	path, secret := ownSecretPath(n.cfg.DataDir), r.Secrets()[0]
	if data, err := os.ReadFile(path); err == nil && string(bytes.TrimSpace(data)) == secret.Text() {
		return nil
	}
	return secret.Write(path)
}

// secretFileProblem tells that the user's file holds a secret that was changed since.
func (n *node) secretFileProblem() string {
	r := n.rotation()
	if n.cfg.SecretFile == "" || r.Step == 0 || r.Phase() == pki.PhaseInstall {
		return ""
	}
	given, err := pki.ReadSecret(n.cfg.SecretFile)
	if err == nil && given.Equal(r.Secret) {
		return ""
	}
	return fmt.Sprintf("the join secret was changed (change %d), and %s does not hold the new one; this node has it, but a new node given this file is refused: write into it what kontiki secret show prints",
		r.Generation(), n.cfg.SecretFile)
}

// followSecret takes every step that the store tells.
func (n *node) followSecret(ctx context.Context) error {
	if err := n.keepOwnSecret(); err != nil { // after a crash in takeSecret
		n.log.Warn("the file with this node's join secret cannot be written", "err", err)
	}
	for ctx.Err() == nil {
		view := n.store.View()
		r, err := n.storedSecret(view)
		if err == nil {
			err = n.takeSecret(r)
		}
		if err == nil {
			n.problems.solved("secret-step")
			if err := awaitChange(ctx, n.store, secretKey, view.Revision()); err != nil {
				return err
			}
			continue
		}
		n.problems.report("secret-step", fmt.Sprintf("this node cannot take the cluster's new join secret: %v; it tries again", err))
		select {
		case <-time.After(secretRetry):
		case <-ctx.Done():
		}
	}
	return nil
}

// storedSecret is the store's record; the zero value where the secret was never changed.
func (n *node) storedSecret(view raftstore.View) (pki.Rotation, error) {
	kv, found := view.Get(secretKey)
	if !found {
		return pki.Rotation{}, nil
	}
	return n.charter.trust.OpenRotation(kv.Value)
}

// latestSecret is the later of what the store and what this node's disk holds: the store
// may have been restored from an older snapshot.
func (n *node) latestSecret(view raftstore.View) (pki.Rotation, error) {
	r, err := n.storedSecret(view)
	if own := n.rotation(); err == nil && own.Step >= r.Step {
		r = own
	}
	return r, err
}

// rotateSecret begins a change of the join secret.
func (n *node) rotateSecret(ctx context.Context, secret pki.Secret) (pki.Rotation, error) {
	view, err := n.store.Linearize(ctx)
	if err != nil {
		return pki.Rotation{}, err
	}
	r, err := n.latestSecret(view)
	if err != nil {
		return pki.Rotation{}, err
	}
	next, err := r.Begin(secret)
	if err != nil {
		return pki.Rotation{}, err
	}
	return next, n.writeSecret(ctx, view, next, 0)
}

// errSecretMoved is returned when another change of the join secret came first.
var errSecretMoved = errors.New("the join secret has been changed by somebody else just now")

// writeSecret replaces the record that view holds. term is 0 for an operator's wish.
func (n *node) writeSecret(ctx context.Context, view raftstore.View, r pki.Rotation, term uint64) error {
	sealed, err := n.charter.trust.SealRotation(r)
	if err != nil {
		return err
	}
	kv, _ := view.Get(secretKey)
	res, err := n.store.Apply(ctx, raftstore.Txn{
		Compares: []raftstore.Compare{{Key: secretKey, ModRevision: kv.ModRevision}},
		Ops:      []raftstore.Op{{Kind: raftstore.OpPut, Key: secretKey, Value: sealed}},
		Term:     term,
	})
	if err != nil {
		return fmt.Errorf("record the new join secret: %w", err)
	}
	if !res.Succeeded {
		return errSecretMoved
	}
	return nil
}

// driveSecret is the leader's part in a change: the next step, once everybody has
// taken this one.
func (n *node) driveSecret(ctx context.Context, term uint64) error {
	changed, stop := n.ring.Watch() // tells of this node's own steps, too
	defer stop()
	for {
		var again <-chan time.Time
		view := n.store.View()
		r, err := n.latestSecret(view)
		if err == nil && r.Phase() != pki.PhaseDone && len(n.behind(r)) == 0 {
			err = n.writeSecret(ctx, view, r.Next(), term)
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn("the change of the join secret does not get on; it is tried again", "err", err)
			again = time.After(secretRetry)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *node) behind(r pki.Rotation) []string {
	return behind(r, n.ring.Members(), n.store.Members(), n.charter.ClusterID)
}

// behind lists the members that answer, or may, and have not taken a step of a change
// yet. Those that are away are not waited for: they are told when they are back. Nor is
// anybody in the ring who is no member by the store: whoever knows the old secret can
// make up as many as would hold the change up for ever.
func behind(r pki.Rotation, ring []gossip.Member, members []raftstore.Member, cluster string) (names []string) {
	for _, m := range ring {
		here := m.State == gossip.StateAlive || m.State == gossip.StateUnknown
		member := slices.ContainsFunc(members, func(of raftstore.Member) bool { return of.ID == m.ID })
		if here && member && m.ClusterID == cluster && m.KeyStep < r.Step {
			names = append(names, m.Name)
		}
	}
	return names
}

// secretProgress says what a change waits for; empty when none is under way.
func (n *node) secretProgress() string {
	r := n.rotation()
	if r.Phase() == pki.PhaseDone {
		return ""
	}
	text := fmt.Sprintf("the join secret is being changed (change %d, phase %s)", r.Generation(), r.Phase())
	for i, name := range n.behind(r) {
		if i == 0 {
			text += "; not that far yet: "
		} else {
			text += ", "
		}
		text += name
	}
	return text
}
