package dump

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestInterruptedTableIsReadAnew(t *testing.T) {
	calls := 0
	table, err := All(func() ([]int, error) {
		if calls++; calls < 3 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if err != nil || len(table) != 2 || calls != 3 {
		t.Errorf("got %v, %v after %d calls; want the whole table of the third", table, err, calls)
	}
}

func TestOtherErrorsAndEndlessChangesAreReported(t *testing.T) {
	broken := errors.New("broken")
	calls := 0
	if _, err := All(func() ([]int, error) { calls++; return nil, broken }); !errors.Is(err, broken) || calls != 1 {
		t.Errorf("%v after %d calls; want the error at once", err, calls)
	}
	if _, err := All(func() ([]int, error) { return nil, netlink.ErrDumpInterrupted }); !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("a table that always changes: %v", err)
	}
}
