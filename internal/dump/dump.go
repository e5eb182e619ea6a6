// Package dump reads whole tables of the kernel over netlink.
//
// The kernel hands out a table in parts. When the table changes in between it
// says so (NLM_F_DUMP_INTR), and what was read may lack entries that were there
// all the time: it has to be read anew. Functions may be called concurrently.
package dump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// tries bounds how often a table is read. A table that changes all the time is
// then reported as such, and the caller looks again later.
const tries = 20

// All calls list until it returns a table that did not change while it was read.
func All[T any](list func() ([]T, error)) (table []T, err error) {
	for range tries {
		if table, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return table, err
}
