package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// Back-off of a controller that panicked. One that ran for a while starts anew.
const (
	firstRestart = 100 * time.Millisecond
	lastRestart  = 30 * time.Second
	stable       = time.Minute
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

// supervise runs all controllers until ctx ends and each has returned.
func supervise(ctx context.Context, log *slog.Logger, all []controller) {
	var running sync.WaitGroup
	for _, c := range all {
		running.Go(func() { keepRunning(ctx, log.With("controller", c.name), &c) })
	}
	running.Wait()
}

func keepRunning(ctx context.Context, log *slog.Logger, c *controller) {
	for wait := firstRestart; ctx.Err() == nil; wait = min(2*wait, lastRestart) {
		began := time.Now()
		err := runOnce(ctx, c)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > stable {
			wait = firstRestart
		}
		log.Error("controller stopped, starting it again", "error", err, "after", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
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
