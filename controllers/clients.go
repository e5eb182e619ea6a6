package controllers

import (
	"fmt"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	resourceclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"kontiki/controllers/scaletarget"
)

// Connect makes all clients that controllers need of one configuration; what is
// not a client is left to the caller.
func Connect(config, scheduler *rest.Config) (Config, error) {
	var c Config
	var err error
	if c.Client, err = kubernetes.NewForConfig(config); err != nil {
		return c, fmt.Errorf("client of the controllers: %w", err)
	}
	if c.SchedulerClient, err = kubernetes.NewForConfig(scheduler); err != nil {
		return c, fmt.Errorf("client of the scheduler: %w", err)
	}
	if c.Metadata, err = metadata.NewForConfig(config); err != nil {
		return c, fmt.Errorf("metadata client: %w", err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return c, fmt.Errorf("discovery client: %w", err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kinds))
	scales, err := scale.NewForConfig(config, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(kinds))
	if err != nil {
		return c, fmt.Errorf("scale client: %w", err)
	}
	c.Targets = &scaletarget.Targets{Scales: scales, Mapper: mapper}
	c.Metrics.Mapper = mapper
	c.Metrics.Resource, err = resourceclient.NewForConfig(config)
	if err != nil {
		return c, fmt.Errorf("metrics client: %w", err)
	}
	versions := custom_metrics.NewAvailableAPIsGetter(kinds)
	c.Metrics.Custom, c.Metrics.Forget = custom_metrics.NewForConfig(config, mapper, versions), versions.Invalidate
	if c.Metrics.External, err = external_metrics.NewForConfig(config); err != nil {
		return c, fmt.Errorf("external metrics client: %w", err)
	}
	return c, nil
}
