package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// ErrHopeless says that a controller stops again and again on this node: another
// may do better as the leader.
var ErrHopeless = errors.New("a controller does not stay up on this node")

// Back-off of a controller that panicked. One that ran for a while starts anew; one
// that never does, for some 25 s, is given up.
const (
	firstRestart = 100 * time.Millisecond
	lastRestart  = 30 * time.Second
	stable       = time.Minute
	hopeless     = 9
)

// controller is one of those the supervisor runs. start makes a fresh one: what a
// panic left behind is not used again.
type controller struct {
	name  string
	needs []schema.GroupVersionResource // it is left out where one is not served
	start func() (runner, error)
	first runner // made by start before the informers were started
}

type runner interface {
	Run(ctx context.Context) error
}

// supervise runs all controllers until ctx ends, or one of them is given up, and
// each has returned.
func supervise(ctx context.Context, log *slog.Logger, health *Health, all []controller) error {
	running, ctx := errgroup.WithContext(ctx)
	for _, c := range all {
		running.Go(func() error { return keepRunning(ctx, log.With("controller", c.name), health, &c) })
	}
	return running.Wait()
}

func keepRunning(ctx context.Context, log *slog.Logger, health *Health, c *controller) error {
	defer health.ended(c.name)
	for wait := firstRestart; ctx.Err() == nil; wait = min(2*wait, lastRestart) {
		began := time.Now()
		health.started(c.name)
		well := time.AfterFunc(stable, func() { health.recovered(c.name) })
		err := runOnce(ctx, c)
		well.Stop()
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("it returned without being asked to")
		}
		if time.Since(began) > stable {
			wait = firstRestart
		}
		if health.failed(c.name, err) >= hopeless {
			return fmt.Errorf("%w: %s: %w", ErrHopeless, c.name, err)
		}
		log.Error("controller stopped, starting it again", "error", err, "after", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
	return nil
}

func runOnce(ctx context.Context, c *controller) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	r := c.first
	if c.first = nil; r == nil {
		if r, err = c.start(); err != nil {
			return err
		}
	}
	return r.Run(ctx)
}

// served keeps the controllers all of whose kinds the API serves. The API is the
// one in this process, so what it lacks now it will lack as long as it runs.
func served(ctx context.Context, log *slog.Logger, api discovery.DiscoveryInterface, all []controller) ([]controller, error) {
	lists := map[string]*metav1.APIResourceList{}
	var able []controller
	for _, c := range all {
		missing, err := firstMissing(api, lists, c.needs)
		if err != nil {
			return nil, fmt.Errorf("discover what controller %s needs: %w", c.name, err)
		}
		if missing != "" {
			log.Info("controller left out: the API does not serve its kind", "controller", c.name, "resource", missing)
			continue
		}
		able = append(able, c)
	}
	return able, ctx.Err()
}

func firstMissing(api discovery.DiscoveryInterface, lists map[string]*metav1.APIResourceList, needs []schema.GroupVersionResource) (string, error) {
	for _, r := range needs {
		group := r.GroupVersion().String()
		if _, ok := lists[group]; !ok {
			list, err := api.ServerResourcesForGroupVersion(group)
			if apierrors.IsNotFound(err) {
				list, err = &metav1.APIResourceList{}, nil
			}
			if err != nil {
				return "", err
			}
			lists[group] = list
		}
		if !slices.ContainsFunc(lists[group].APIResources, func(have metav1.APIResource) bool { return have.Name == r.Resource }) {
			return r.String(), nil
		}
	}
	return "", nil
}
