package storage

import (
	"context"
	"errors"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage"

	"kontiki/raftstore"
)

// ReasonFenced is the reason of the status that answers a write guarded by a
// term that has passed. It is final: neither client-go nor the patch handler
// repeats it, unlike a conflict, which is why the code is 412 and not 409.
const ReasonFenced metav1.StatusReason = "Fenced"

// IsFenced tells whether err is the refusal of a write whose guarding term has
// passed. The component that got it runs on a node that no longer leads: it stops.
func IsFenced(err error) bool {
	return apierrors.ReasonForError(err) == ReasonFenced
}

// The messages of upstream for history that is gone; clients show them.
const (
	listExpired          = "The resourceVersion for the provided list is too old."
	watchExpired         = "The resourceVersion for the provided watch is too old."
	continueExpired      = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter."
	inconsistentContinue = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list."
)

// statusOf is the one place where errors of the store become what an API client
// sees. op is what was tried ("read" or "write") and key the object's key.
// Errors that are statuses already, and those that are not the store's, pass.
//
// None of them says when to try again: client-go repeats any request that is
// answered so by itself, ten times, which would repeat a write of unknown outcome,
// and keep from a user for minutes that there is no quorum. Elections are waited
// for here, not there.
//
// ErrCompacted and ErrFutureRevision are mapped by list and watch, which know
// the revision that was asked for.
func statusOf(err error, op, key string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raftstore.ErrFenced):
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status:  metav1.StatusFailure,
			Code:    http.StatusPreconditionFailed,
			Reason:  ReasonFenced,
			Message: "this node no longer leads the cluster: the term that guarded the write of " + key + " has passed and nothing was written",
		}}
	case errors.Is(err, raftstore.ErrDiffers):
		return apierrors.NewServiceUnavailable("the replica of this node is damaged and is being refilled from the others: try another node, or again in a moment")
	case errors.Is(err, raftstore.ErrOutcomeUnknown):
		return apierrors.NewTimeoutError("the write of "+key+" was not confirmed in time and may or may not have happened: "+
			"read the object before repeating it", 0)
	case errors.Is(err, raftstore.ErrNoQuorum):
		return apierrors.NewServiceUnavailable(noQuorumMessage(op, key))
	case errors.Is(err, raftstore.ErrClosed):
		return apierrors.NewServiceUnavailable("this node is stopping; try another one")
	case errors.Is(err, raftstore.ErrHalted):
		return apierrors.NewServiceUnavailable("the replica of this node has halted, try another node: " + err.Error())
	case errors.Is(err, raftstore.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError("the object " + key + " does not fit the store: " + err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError("the "+op+" of "+key+" did not complete within the time of the request", 0)
	}
	return err
}

func noQuorumMessage(op, key string) string {
	if op == "read" {
		return "no quorum of voters is in reach of this node, so it cannot tell whether its copy of " + key + " is the latest: " +
			"try another node, or read what this one knows with resourceVersion=0 (kontiki kubectl --stale)"
	}
	return "no quorum of voters is in reach of this node, so nothing was written to " + key + ": try another node, or again later"
}

// expiredPage is the 410 that answers a continue token whose revision has been
// compacted. It carries a token that goes on at the latest revision.
func expiredPage(continueKey, keyPrefix string) error {
	token, err := storage.EncodeContinue(continueKey, keyPrefix, -1)
	if err != nil {
		return apierrors.NewResourceExpired(continueExpired)
	}
	status := apierrors.NewResourceExpired(inconsistentContinue)
	status.ErrStatus.ListMeta.Continue = token
	return status
}
