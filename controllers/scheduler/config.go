package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// Where the cluster's KubeSchedulerConfiguration is looked for. Without it there is
// one profile, default-scheduler, with upstream's defaults.
const (
	configNamespace = "kube-system"
	configName      = "kontiki-scheduler"
	configKey       = "config.yaml"
	configVersion   = "kubescheduler.config.k8s.io/v1"
)

// configuration is what is understood of upstream's format; anything else in it is
// refused, so that nobody waits for what will not happen.
type configuration struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Profiles   []profileConfig `json:"profiles"`
}

type profileConfig struct {
	SchedulerName string         `json:"schedulerName"`
	Plugins       pluginsConfig  `json:"plugins"`
	PluginConfig  []pluginConfig `json:"pluginConfig"`
}

type pluginsConfig struct {
	Score      pluginSet `json:"score"`
	MultiPoint pluginSet `json:"multiPoint"`
}

type pluginSet struct {
	Enabled  []pluginWeight `json:"enabled"`
	Disabled []pluginWeight `json:"disabled"`
}

type pluginWeight struct {
	Name   string `json:"name"`
	Weight *int64 `json:"weight"`
}

type pluginConfig struct {
	Name string          `json:"name"`
	Args json.RawMessage `json:"args"`
}

type typeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

type resourceSpec struct {
	Name   corev1.ResourceName `json:"name"`
	Weight int64               `json:"weight"`
}

// readProfiles makes the profiles of a configuration.
func readProfiles(text string) (profiles, error) {
	var c configuration
	if err := yaml.UnmarshalStrict([]byte(text), &c); err != nil {
		return nil, fmt.Errorf("read %s: %w", configKey, err)
	}
	if c.APIVersion != configVersion || c.Kind != "KubeSchedulerConfiguration" {
		return nil, fmt.Errorf("it is a %s %s, not a %s KubeSchedulerConfiguration", c.APIVersion, c.Kind, configVersion)
	}
	all := profiles{}
	for i, p := range c.Profiles {
		o, err := p.options()
		if err != nil {
			return nil, fmt.Errorf("profiles[%d]: %w", i, err)
		}
		if all[o.name] != nil {
			return nil, fmt.Errorf("profiles[%d]: schedulerName %q is there twice", i, o.name)
		}
		all[o.name] = o.build()
	}
	if len(all) == 0 {
		all[Component] = defaultOptions().build()
	}
	return all, nil
}

func (p profileConfig) options() (options, error) {
	o := defaultOptions()
	if p.SchedulerName != "" {
		o.name = p.SchedulerName
	}
	for _, set := range []pluginSet{p.Plugins.MultiPoint, p.Plugins.Score} {
		if err := o.weigh(set); err != nil {
			return o, err
		}
	}
	for _, c := range p.PluginConfig {
		if err := o.configure(c); err != nil {
			return o, fmt.Errorf("args of %s: %w", c.Name, err)
		}
	}
	return o, nil
}

// weigh sets and drops weights of scoring. Filters cannot be switched off: what they
// hold is what the cluster promises.
func (o *options) weigh(set pluginSet) error {
	for _, d := range set.Disabled {
		if d.Name == "*" {
			clear(o.weights)
			continue
		}
		if _, known := defaultOptions().weights[d.Name]; !known {
			return fmt.Errorf("plugin %q cannot be disabled: it does not score", d.Name)
		}
		delete(o.weights, d.Name)
	}
	for _, e := range set.Enabled {
		usual, known := defaultOptions().weights[e.Name]
		if !known {
			return fmt.Errorf("there is no scoring plugin %q", e.Name)
		}
		o.weights[e.Name] = usual
		if e.Weight != nil && *e.Weight > 0 {
			o.weights[e.Name] = *e.Weight
		}
	}
	return nil
}

func (o *options) configure(c pluginConfig) error {
	switch c.Name {
	case "NodeResourcesFit":
		return o.configureFit(c.Args)
	case "NodeResourcesBalancedAllocation":
		var args struct {
			typeMeta  `json:",inline"`
			Resources []resourceSpec `json:"resources"`
		}
		err := yaml.UnmarshalStrict(c.Args, &args)
		if err == nil && len(args.Resources) > 0 {
			o.balanced, err = weighed(args.Resources)
		}
		return err
	case "PodTopologySpread":
		var args struct {
			typeMeta           `json:",inline"`
			DefaultConstraints []corev1.TopologySpreadConstraint `json:"defaultConstraints"`
			DefaultingType     string                            `json:"defaultingType"`
		}
		if err := yaml.UnmarshalStrict(c.Args, &args); err != nil {
			return err
		}
		return o.configureSpread(args.DefaultingType, args.DefaultConstraints)
	case "InterPodAffinity":
		var args struct {
			typeMeta              `json:",inline"`
			HardPodAffinityWeight *int64 `json:"hardPodAffinityWeight"`
		}
		err := yaml.UnmarshalStrict(c.Args, &args)
		if err == nil && args.HardPodAffinityWeight != nil {
			if o.hardWeight = *args.HardPodAffinityWeight; o.hardWeight < 0 || o.hardWeight > 100 {
				err = errors.New("hardPodAffinityWeight must be from 0 to 100")
			}
		}
		return err
	case "DefaultPreemption":
		var args struct {
			typeMeta                    `json:",inline"`
			MinCandidateNodesPercentage *int `json:"minCandidateNodesPercentage"`
			MinCandidateNodesAbsolute   *int `json:"minCandidateNodesAbsolute"`
		}
		if err := yaml.UnmarshalStrict(c.Args, &args); err != nil {
			return err
		}
		return o.configurePreemption(args.MinCandidateNodesPercentage, args.MinCandidateNodesAbsolute)
	}
	return errors.New("this plugin takes none here")
}

func weighed(specs []resourceSpec) ([]weighedResource, error) {
	var all []weighedResource
	for _, s := range specs {
		if s.Weight == 0 {
			s.Weight = 1
		}
		if s.Weight < 1 || s.Weight > 100 {
			return nil, fmt.Errorf("weight of %s must be from 1 to 100", s.Name)
		}
		all = append(all, weighedResource{s.Name, s.Weight})
	}
	return all, nil
}

func (o *options) configureFit(raw json.RawMessage) error {
	var args struct {
		typeMeta        `json:",inline"`
		ScoringStrategy *struct {
			Type                     string         `json:"type"`
			Resources                []resourceSpec `json:"resources"`
			RequestedToCapacityRatio *struct {
				Shape []struct {
					Utilization int64 `json:"utilization"`
					Score       int64 `json:"score"`
				} `json:"shape"`
			} `json:"requestedToCapacityRatio"`
		} `json:"scoringStrategy"`
	}
	if err := yaml.UnmarshalStrict(raw, &args); err != nil || args.ScoringStrategy == nil {
		return err
	}
	s := args.ScoringStrategy
	if !slices.Contains([]string{leastAllocated, mostAllocated, requestedToCapacityRatio}, s.Type) {
		return fmt.Errorf("scoringStrategy.type %q is none of %s, %s, %s", s.Type, leastAllocated, mostAllocated, requestedToCapacityRatio)
	}
	fit := fitStrategy{kind: s.Type, resources: o.fit.resources}
	var err error
	if len(s.Resources) > 0 {
		if fit.resources, err = weighed(s.Resources); err != nil {
			return err
		}
	}
	if s.Type == requestedToCapacityRatio {
		if s.RequestedToCapacityRatio == nil || len(s.RequestedToCapacityRatio.Shape) == 0 {
			return errors.New("scoringStrategy.requestedToCapacityRatio.shape must have a point at least")
		}
		last := int64(-1)
		for _, p := range s.RequestedToCapacityRatio.Shape {
			if p.Utilization <= last || p.Utilization > 100 || p.Score < 0 || p.Score > 10 {
				return errors.New("the shape's utilizations must rise within 0 to 100, its scores be from 0 to 10")
			}
			last = p.Utilization
			fit.shape = append(fit.shape, shapePoint{p.Utilization, p.Score * maxScore / 10})
		}
	}
	o.fit = fit
	return nil
}

func (o *options) configureSpread(kind string, constraints []corev1.TopologySpreadConstraint) error {
	switch kind {
	case "System":
		if len(constraints) > 0 {
			return errors.New("defaultConstraints are only for defaultingType List")
		}
		o.spread = spreadDefaults{system: true}
		return nil
	case "List", "":
	default:
		return fmt.Errorf("defaultingType %q is neither System nor List", kind)
	}
	for i, t := range constraints {
		if t.LabelSelector != nil || t.MaxSkew < 1 || t.TopologyKey == "" || t.WhenUnsatisfiable != corev1.DoNotSchedule && t.WhenUnsatisfiable != corev1.ScheduleAnyway {
			return fmt.Errorf("defaultConstraints[%d] needs maxSkew, topologyKey and whenUnsatisfiable, and no labelSelector", i)
		}
	}
	o.spread = spreadDefaults{list: constraints}
	return nil
}

func (o *options) configurePreemption(percent, absolute *int) error {
	if percent != nil {
		o.candidatePercent = *percent
	}
	if absolute != nil {
		o.candidateMinimum = *absolute
	}
	if o.candidatePercent < 0 || o.candidatePercent > 100 || o.candidateMinimum < 0 || o.candidatePercent+o.candidateMinimum == 0 {
		return errors.New("minCandidateNodesPercentage must be from 0 to 100, minCandidateNodesAbsolute 0 or more, and one of them more than 0")
	}
	return nil
}
