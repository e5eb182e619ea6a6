package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kontiki/jepsen/history"
)

func TestOutcome(t *testing.T) {
	configMaps := schema.GroupResource{Resource: "configmaps"}
	kind := schema.GroupResource{Resource: "ConfigMap"}
	other := errors.New("because")
	refused := &url.Error{Op: "Post", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}
	reset := &url.Error{Op: "Post", Err: &net.OpError{Op: "read", Err: errors.New("connection reset")}}
	for name, c := range map[string]struct {
		err     error
		e       history.Event
		want    history.Type
		refused string
	}{
		"it happened":                          {nil, history.Event{F: "create"}, history.OK, ""},
		"a condition that does not hold":       {apierrors.NewConflict(configMaps, "a", other), history.Event{F: "update", Key: "a", At: 5}, history.OK, history.Conflict},
		"a deletion's that does not":           {apierrors.NewConflict(kind, "a", other), history.Event{F: "delete", Key: "a", At: 5}, history.OK, history.Conflict},
		"a conflict without a condition":       {apierrors.NewConflict(configMaps, "a", other), history.Event{F: "patch", Key: "a"}, history.Fail, ""},
		"it exists":                            {apierrors.NewAlreadyExists(configMaps, "a"), history.Event{F: "create", Key: "a"}, history.OK, history.Exists},
		"it does not exist":                    {apierrors.NewNotFound(configMaps, "a"), history.Event{F: "read", Key: "a"}, history.OK, history.Absent},
		"something else does not":              {apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "n"), history.Event{F: "read", Key: "a"}, history.Fail, ""},
		"no quorum, and it says so":            {apierrors.NewServiceUnavailable("no quorum, so nothing was written to a"), history.Event{F: "create", Key: "a"}, history.Fail, ""},
		"unavailable, and no word of the rest": {apierrors.NewServiceUnavailable("this node is stopping"), history.Event{F: "create", Key: "a"}, history.Info, ""},
		"not confirmed":                        {apierrors.NewTimeoutError("may or may not have happened", 0), history.Event{F: "create", Key: "a"}, history.Info, ""},
		"an error inside":                      {apierrors.NewInternalError(other), history.Event{F: "create", Key: "a"}, history.Info, ""},
		"no connection":                        {refused, history.Event{F: "create", Key: "a"}, history.Fail, ""},
		"a connection that broke":              {reset, history.Event{F: "create", Key: "a"}, history.Info, ""},
		"a read over it":                       {reset, history.Event{F: "read", Key: "a"}, history.Fail, ""},
		"out of time":                          {fmt.Errorf("sent: %w", context.DeadlineExceeded), history.Event{F: "patch", Key: "a"}, history.Info, ""},
	} {
		if got, why := outcome(c.err, c.e); got != c.want || why != c.refused {
			t.Errorf("%s: %s %q, want %s %q", name, got, why, c.want, c.refused)
		}
	}
}
