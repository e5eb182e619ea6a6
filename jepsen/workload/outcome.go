package workload

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/history"
)

// outcome is what an answer says of the call e. What is not known not to have happened
// may have.
func outcome(err error, e history.Event) (t history.Type, refused string) {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return history.OK, ""
	case errors.As(err, &status):
		return statusOutcome(status.Status(), e)
	case isRead(e), neverSent(err):
		return history.Fail, ""
	}
	return history.Info, ""
}

func isRead(e history.Event) bool {
	return e.F == "read" || e.F == "list" || e.F == final || e.F == "watch"
}

// neverSent tells whether there was no connection to send anything over.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// noAnswer tells whether the connection brought no answer.
func noAnswer(err error) bool {
	var status apierrors.APIStatus
	return err != nil && (!errors.As(err, &status) || errors.Is(err, context.DeadlineExceeded))
}

func statusOutcome(s metav1.Status, e history.Event) (t history.Type, refused string) {
	// A refused deletion names the kind, all others name the resource.
	ours := s.Details != nil && (s.Details.Kind == "configmaps" || s.Details.Kind == "ConfigMap") && s.Details.Name == e.Key
	switch {
	case s.Reason == metav1.StatusReasonConflict && e.At == 0:
		return history.Fail, "" // the node itself tried again, and gave up
	case s.Reason == metav1.StatusReasonConflict && ours:
		return history.OK, history.Conflict
	case s.Reason == metav1.StatusReasonAlreadyExists && ours:
		return history.OK, history.Exists
	case s.Reason == metav1.StatusReasonNotFound && ours:
		return history.OK, history.Absent
	case isRead(e):
		return history.Fail, ""
	}
	switch s.Code {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict,
		http.StatusGone, http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusTooManyRequests:
		return history.Fail, ""
	case http.StatusServiceUnavailable:
		if strings.Contains(s.Message, "nothing was written") {
			return history.Fail, "" // it is held to its word
		}
	}
	return history.Info, ""
}
