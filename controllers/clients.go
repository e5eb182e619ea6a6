package controllers

import (
	"fmt"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	resourceclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"kontiki/controllers/scaletarget"
)

// Connect makes those clients that controllers need for a few questions; Client,
// Metadata and SchedulerClient, through which nearly all goes, are left to the caller,
// as is what is not a client.
func Connect(config *rest.Config) (Config, error) {
	var c Config
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
