package proc

import (
	"os"
	"testing"
	"time"
)

func TestSelf(t *testing.T) {
	m, err := Memory(os.Getpid())
	if err != nil || m.RSS < 1 || m.Anonymous <= 0 || m.Anonymous > m.RSS {
		t.Errorf("memory %+v, %v", m, err)
	}
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; {
		used, err := CPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if used > before {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("ten seconds of work are not seen")
		}
	}
	if _, err := Written(os.Getpid()); err != nil {
		t.Error(err)
	}
}
