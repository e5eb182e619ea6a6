package tokens

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	mostUses  = 4096             // that are remembered
	mostToBe  = 64               // that wait to be written
	useWrite  = 10 * time.Second // is what writing one may take
	useFailed = time.Minute      // until one that could not be written is tried again
)

// uses notes once a day that a token in a Secret was used. Requests only leave word:
// without a quorum nothing can be written, and nobody is kept waiting for that.
type uses struct {
	write func(ctx context.Context, namespace, name string, patch []byte) error
	queue chan use

	mu   sync.Mutex
	seen map[types.UID]seen
}

// use is a Secret whose token was used on a day.
type use struct {
	namespace, name string
	uid             types.UID
	day             string
}

// seen is the last day that was noted of a Secret, or was tried in vain.
type seen struct {
	day   string
	again time.Time // when to try again; zero: never on that day
}

func newUses(write func(ctx context.Context, namespace, name string, patch []byte) error) *uses {
	return &uses{write: write, queue: make(chan use, mostToBe), seen: map[types.UID]seen{}}
}

// note leaves word, if there is any to be left. Clocks differ: tomorrow is as good.
func (u *uses) note(secret *corev1.Secret, now time.Time) {
	now = now.UTC()
	day := now.Format(labelDate)
	if last := secret.Labels[lastUsedLabel]; last == day || last == now.AddDate(0, 0, 1).Format(labelDate) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if s := u.seen[secret.UID]; s.day == day && (s.again.IsZero() || now.Before(s.again)) {
		return
	}
	if len(u.seen) >= mostUses {
		maps.DeleteFunc(u.seen, func(_ types.UID, s seen) bool { return s.day != day || !s.again.IsZero() })
	}
	if len(u.seen) >= mostUses {
		return // tomorrow there is room
	}
	select {
	case u.queue <- use{secret.Namespace, secret.Name, secret.UID, day}:
		u.seen[secret.UID] = seen{day: day}
	default: // the next request with the token leaves word again
	}
}

// run writes what was noted until ctx ends. It does so one after the other: that a
// token was used is no news that hurries.
func (u *uses) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case one := <-u.queue:
			u.one(ctx, one)
		}
	}
}

func (u *uses) one(ctx context.Context, one use) {
	ctx, cancel := context.WithTimeout(ctx, useWrite)
	defer cancel()
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"labels":{%q:%q}}}`, one.uid, lastUsedLabel, one.day)
	if u.write(ctx, one.namespace, one.name, patch) == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen[one.uid] = seen{one.day, time.Now().Add(useFailed)}
}
