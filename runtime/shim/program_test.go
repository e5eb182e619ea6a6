package shim

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kontiki/runtime/shim/embedded"
)

func TestEmbeddedProgramIsExtractedAndChecked(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	path, hash, err := locateProgram(cfg)
	if errors.Is(err, embedded.ErrNotBuilt) {
		if !strings.Contains(err.Error(), "make build") {
			t.Errorf("does not say what to do: %v", err)
		}
		t.Skip("needs the embedded program: built without kontiki-shim")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("half a file"), 0o700); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(cfg.Dir, programPrefix+"0123456789abcdef")
	if err := os.WriteFile(old, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	again, _, err := locateProgram(cfg)
	if err != nil || again != path {
		t.Fatal(again, err)
	}
	if have, err := HashFile(path); err != nil || have != hash {
		t.Errorf("extracted %s, want %s, %v", have, hash, err)
	}
	removeOldPrograms(cfg.Dir, path)
	if left, _ := filepath.Glob(filepath.Join(cfg.Dir, "*")); len(left) != 1 || left[0] != path {
		t.Errorf("left: %v", left)
	}
}
