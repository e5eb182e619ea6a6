// Package embedded carries the program kontiki-shim inside the node's own. It
// owns nothing but those bytes; only runtime/shim imports it.
package embedded

import (
	"embed"
	"errors"
)

// files is this folder's README.md and, once it was built, kontiki-shim: the
// pattern must match something for a checkout without it to compile.
//
//go:embed [Rk]*
var files embed.FS

// ErrNotBuilt: this binary was built without its shim.
var ErrNotBuilt = errors.New("this program was built without kontiki-shim inside; run `make build`, which builds it first")

// Program returns the bytes of kontiki-shim.
func Program() ([]byte, error) {
	b, err := files.ReadFile("kontiki-shim")
	if err != nil || len(b) == 0 {
		return nil, ErrNotBuilt
	}
	return b, nil
}
