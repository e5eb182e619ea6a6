package pki

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
)

// Rotation is a cluster's join secret and how far it has come in being changed. A change
// takes three steps, each of which is taken once everybody has taken the one before:
//
//	install   the new secret is accepted, the old one is used
//	use       the new one is used, the old one is still accepted
//	done      the old one is forgotten
//
// So two nodes that are one step apart always have a secret in common. The zero Step is
// that of a cluster whose secret was never changed.
type Rotation struct {
	Step     uint64 // grows by one with each step of each change
	Secret   Secret // the newest
	Previous Secret // the one before; zero when the change is done
}

const stepsOfChange = 3

// Phase is a step of a change.
type Phase string

// The phases, in order.
const (
	PhaseInstall Phase = "install"
	PhaseUse     Phase = "use"
	PhaseDone    Phase = "done"
)

// Generation counts the changes that were begun.
func (r Rotation) Generation() uint64 { return (r.Step + stepsOfChange - 1) / stepsOfChange }

// Phase is how far the change has come.
func (r Rotation) Phase() Phase {
	switch r.Step % stepsOfChange {
	case 1:
		return PhaseInstall
	case 2:
		return PhaseUse
	default:
		return PhaseDone
	}
}

// Begin is the first step of a change to another secret.
func (r Rotation) Begin(secret Secret) (Rotation, error) {
	switch {
	case r.Phase() != PhaseDone:
		return r, fmt.Errorf("the join secret is being changed already (change %d); that ends by itself", r.Generation())
	case secret.Equal(r.Secret):
		return r, errors.New("that is the join secret already")
	}
	return Rotation{Step: r.Step + 1, Secret: secret, Previous: r.Secret}, nil
}

// Next is the step after this one; a change that is done has none.
func (r Rotation) Next() Rotation {
	switch r.Phase() {
	case PhaseInstall:
		r.Step++
	case PhaseUse:
		r.Step++
		r.Previous = Secret{}
	case PhaseDone:
	}
	return r
}

// Secrets are those to prove and accept in this step, the one to prove first.
func (r Rotation) Secrets() Secrets {
	switch r.Phase() {
	case PhaseInstall:
		return Secrets{r.Previous, r.Secret}
	case PhaseUse:
		return Secrets{r.Secret, r.Previous}
	default:
		return Secrets{r.Secret}
	}
}

// sealedRotation is the form of Rotation on disk, in the store and on the wire: its
// secrets are sealed with the cluster's key-encryption key.
type sealedRotation struct {
	Version  int    `json:"version"`
	Step     uint64 `json:"step"`
	Secret   []byte `json:"secret"`
	Previous []byte `json:"previous,omitempty"`
}

const rotationVersion = 1

func (s sealedRotation) context(name string) string {
	return fmt.Sprintf("join-secret/%d/%s", s.Step, name)
}

// SealRotation makes a rotation fit to be stored.
func (t *Trust) SealRotation(r Rotation) ([]byte, error) {
	s := sealedRotation{Version: rotationVersion, Step: r.Step}
	var err error
	if s.Secret, err = sealBytes(t.kek, r.Secret.raw, t.sealed.context(s.context("secret"))); err != nil {
		return nil, err
	}
	if r.Phase() != PhaseDone {
		if s.Previous, err = sealBytes(t.kek, r.Previous.raw, t.sealed.context(s.context("previous"))); err != nil {
			return nil, err
		}
	}
	return json.Marshal(s)
}

// OpenRotation is the inverse of SealRotation.
func (t *Trust) OpenRotation(data []byte) (Rotation, error) {
	var s sealedRotation
	if err := json.Unmarshal(data, &s); err != nil {
		return Rotation{}, fmt.Errorf("the join secret is not readable: %w", err)
	}
	if s.Version != rotationVersion {
		return Rotation{}, fmt.Errorf("the join secret has format %d, this program knows %d: use a newer kontiki", s.Version, rotationVersion)
	}
	open := func(sealed []byte, name string) (Secret, error) {
		raw, err := openBytes(t.kek, sealed, t.sealed.context(s.context(name)))
		if err != nil {
			return Secret{}, fmt.Errorf("open the join secret with the cluster's key-encryption key: %w", err)
		}
		return ParseSecret(raw, "the cluster's records")
	}
	r := Rotation{Step: s.Step}
	var err error
	if r.Secret, err = open(s.Secret, "secret"); err != nil {
		return Rotation{}, err
	}
	if r.Phase() != PhaseDone {
		if r.Previous, err = open(s.Previous, "previous"); err != nil {
			return Rotation{}, err
		}
	}
	return r, nil
}

func rotationPath(dir string) string { return filepath.Join(dir, "pki", "join-secret.json") }

// WriteRotation makes a rotation durable in dir.
func (t *Trust) WriteRotation(dir string, r Rotation) error {
	sealed, err := t.SealRotation(r)
	if err != nil {
		return err
	}
	return WriteFile(rotationPath(dir), sealed)
}

// LoadRotation reads the rotation in dir; found is false where the secret was never
// changed, as far as this node has heard.
func (t *Trust) LoadRotation(dir string) (r Rotation, found bool, err error) {
	data, found, err := readFile(rotationPath(dir))
	if err != nil || !found {
		return Rotation{}, false, err
	}
	if r, err = t.OpenRotation(data); err != nil {
		return Rotation{}, false, fmt.Errorf("%s: %w; without this file, the node asks the other members for the secret", rotationPath(dir), err)
	}
	return r, true, nil
}
