package shim

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"kontiki/runtime/shim/embedded"
)

// programPrefix and the hash of its content name an extracted program, so that
// programs of several builds lie side by side while one replaces the other.
const programPrefix = "kontiki-shim-"

// locateProgram returns the path and the hash of the program to run, extracting
// the embedded one when it is not there in full.
func locateProgram(cfg Config) (path, hash string, err error) {
	if cfg.Program != "" {
		hash, err = HashFile(cfg.Program)
		if err != nil {
			return "", "", fmt.Errorf("shim: read the program: %w", err)
		}
		return cfg.Program, hash, nil
	}
	program, err := embedded.Program()
	if err != nil {
		return "", "", fmt.Errorf("shim: %w", err)
	}
	sum := sha256.Sum256(program)
	hash = hex.EncodeToString(sum[:])
	path = filepath.Join(cfg.Dir, programPrefix+hash[:16])
	// What lies there is checked, not trusted: a crash or a full disk leaves half a file.
	if have, err := HashFile(path); err == nil && have == hash {
		return path, hash, nil
	}
	if err := writeProgram(path, program); err != nil {
		return "", "", fmt.Errorf("shim: extract the program: %w", err)
	}
	return path, hash, nil
}

// writeProgram puts the program at path by a rename: a file that is being executed cannot be written to.
func writeProgram(path string, program []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".kontiki-shim-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, bytes.NewReader(program))
	if err == nil {
		err = f.Chmod(0o700)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// removeOldPrograms removes extracted programs of other builds, once none of them runs.
func removeOldPrograms(dir, keep string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); strings.HasPrefix(e.Name(), programPrefix) && path != keep {
			os.Remove(path)
		}
	}
}

// HashFile is the hex SHA-256 of a file's content.
func HashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
