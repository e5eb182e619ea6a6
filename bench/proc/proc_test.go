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
	if at, err := Started(os.Getpid()); err != nil || time.Since(at) < 0 || time.Since(at) > time.Hour {
		t.Errorf("this process was started %v, %v", at, err)
	}
	if _, err := Written(os.Getpid()); err != nil {
		t.Error(err)
	}
}
