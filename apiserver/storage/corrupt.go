package storage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/storage"
)

// What happens to values that cannot be decrypted or decoded. Upstream's feature
// AllowUnsafeMalformedObjectDeletion (KEP-3926) lists them all and lets them be
// deleted unread; without it the first one fails a list.

// maxCorruptObjects bounds how many of them one list's error names.
const maxCorruptObjects = 100

var errTooManyCorrupt = errors.New("too many errors, the list is truncated")

// corruptObject is the error of a value that cannot be read.
type corruptObject struct {
	kind     string
	revision uint64
	err      error
}

func (e *corruptObject) Error() string {
	return fmt.Sprintf("%s revision=%d: %v", e.kind, e.revision, e.err)
}

func (e *corruptObject) Unwrap() error { return e.err }

// markCorrupt wraps the error of a value that cannot be read. A reader that gave
// up says nothing about the value.
func markCorrupt(kind string, revision uint64, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &corruptObject{kind: kind, revision: revision, err: err}
}

// corruptDeleted is the error of a watch that saw such a value deleted, and
// therefore cannot say what it was.
type corruptDeleted struct{ err error }

func (e *corruptDeleted) Error() string {
	return fmt.Sprintf("saw a DELETED event, but object data is corrupt - %v", e.err)
}

func (e *corruptDeleted) Unwrap() error { return e.err }

// corrupt marks err for the registry, which then offers the unsafe deletion.
func (s *Storage) corrupt(key string, err error) error {
	var corrupt *corruptObject
	if errors.As(err, &corrupt) {
		return storage.NewCorruptObjError(key, corrupt)
	}
	return err
}

// listStatus makes a status of the errors of many values.
func (s *Storage) listStatus(err error) error {
	var many *corruptList
	if errors.As(err, &many) {
		return many.status(s.resource)
	}
	return err
}

// listErrors gathers the errors of a list's values. add returns true when the
// list is to be ended.
type listErrors interface {
	add(key string, err error) (done bool)
	aggregate() error
}

// firstError ends a list at its first error.
type firstError struct{ err error }

func newFirstError() listErrors { return &firstError{} }

func (e *firstError) add(_ string, err error) bool {
	e.err = err
	return true
}

func (e *firstError) aggregate() error { return e.err }

// corruptObjects goes on past values that cannot be read.
type corruptObjects struct {
	errs     []error
	abortErr error
}

func newCorruptObjects() listErrors { return &corruptObjects{} }

func (e *corruptObjects) add(key string, err error) bool {
	if e.abortErr != nil {
		return true
	}
	var corrupt *corruptObject
	if !errors.As(err, &corrupt) {
		e.abortErr = err
		return true
	}
	e.errs = append(e.errs, storage.NewCorruptObjError(key, corrupt))
	if len(e.errs) >= maxCorruptObjects {
		e.abortErr = errTooManyCorrupt
		return true
	}
	return false
}

func (e *corruptObjects) aggregate() error {
	switch {
	case len(e.errs) > 0:
		return &corruptList{errs: e.errs, abortErr: e.abortErr}
	default:
		return e.abortErr
	}
}

// corruptList is the error of a list with values that cannot be read. abortErr
// says why the list was ended before all were found, if it was.
type corruptList struct {
	errs     []error
	abortErr error
}

func (e *corruptList) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "unable to transform or decode %d objects: %v", len(e.errs), utilerrors.NewAggregate(e.errs))
	if e.abortErr != nil {
		fmt.Fprintf(&b, ", aborted: %v", e.abortErr)
	}
	return b.String()
}

// status is upstream's answer, with a cause per value.
func (e *corruptList) status(resource schema.GroupResource) error {
	var causes []metav1.StatusCause
	for _, err := range e.errs {
		var stored *storage.StorageError
		if errors.As(err, &stored) {
			causes = append(causes, metav1.StatusCause{
				Type:    metav1.CauseTypeUnexpectedServerResponse,
				Field:   stored.Key,
				Message: err.Error(),
			})
		}
	}
	switch {
	case errors.Is(e.abortErr, errTooManyCorrupt):
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeTooMany, Message: errTooManyCorrupt.Error()})
	case e.abortErr != nil:
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeUnexpectedServerResponse, Message: e.abortErr.Error()})
	}
	message := fmt.Sprintf("failed to read one or more %s from the storage: %v", resource, e.errs[0])
	if len(e.errs) > 1 {
		message = fmt.Sprintf("%s (and %d more)", message, len(e.errs)-1)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusInternalServerError,
		Reason:  metav1.StatusReasonStoreReadError,
		Details: &metav1.StatusDetails{Group: resource.Group, Kind: resource.Resource, Name: "list", Causes: causes},
		Message: message,
	}}
}
