package core

import (
	"fmt"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// containerRules checks the containers of a pod against each other and against
// its volumes.
type containerRules struct {
	spec    *corev1.PodSpec
	volumes map[string]corev1.VolumeSource // those that are valid
}

func (r *containerRules) validate(spec *field.Path) field.ErrorList {
	errs := r.regular(spec.Child("containers"))
	errs = append(errs, r.init(spec.Child("initContainers"))...)
	return append(errs, r.ephemeral(spec.Child("ephemeralContainers"))...)
}

func namesOf(lists ...[]corev1.Container) sets.Set[string] {
	names := sets.New[string]()
	for _, list := range lists {
		for _, c := range list {
			names.Insert(c.Name)
		}
	}
	return names
}

func (r *containerRules) regular(path *field.Path) field.ErrorList {
	if len(r.spec.Containers) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range r.spec.Containers {
		c, at := &r.spec.Containers[i], path.Index(i)
		errs = append(errs, r.common(c, at)...)
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names.Insert(c.Name)
		errs = append(errs, r.lifecycleAndProbes(c, at)...)
		errs = append(errs, validateRestart(c, at)...)
	}
	return append(errs, uniqueHostPorts(r.spec.Containers, path)...)
}

func (r *containerRules) init(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := namesOf(r.spec.Containers)
	for i := range r.spec.InitContainers {
		c, at := &r.spec.InitContainers[i], path.Index(i)
		errs = append(errs, r.common(c, at)...)
		errs = append(errs, validateRestart(c, at)...)
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		} else if c.Name != "" {
			names.Insert(c.Name)
		}
		errs = append(errs, uniqueHostPorts(r.spec.InitContainers[i:i+1], path)...) // they run one after the other
		if isSidecar(c) {
			errs = append(errs, r.lifecycleAndProbes(c, at)...)
			continue
		}
		for _, f := range []struct {
			name string
			set  bool
		}{{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil}} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
		for j, p := range c.ResizePolicy {
			if p.RestartPolicy == corev1.RestartContainer {
				errs = append(errs, field.Invalid(at.Child("resizePolicy").Index(j).Child("restartPolicy"), p.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers"))
			}
		}
	}
	return errs
}

// ephemeralFields are what an ephemeral container may have: no pod should rely on
// one, so that nothing with consequences outside of it is among them.
var ephemeralFields = sets.New("Name", "Image", "Command", "Args", "WorkingDir", "Env", "EnvFrom", "VolumeMounts", "VolumeDevices",
	"TerminationMessagePath", "TerminationMessagePolicy", "ImagePullPolicy", "SecurityContext", "Stdin", "StdinOnce", "TTY")

func (r *containerRules) ephemeral(path *field.Path) field.ErrorList {
	const never = "cannot be set for an Ephemeral Container"
	var errs field.ErrorList
	others := namesOf(r.spec.Containers, r.spec.InitContainers)
	names := others.Clone()
	for i := range r.spec.EphemeralContainers {
		ec, at := &r.spec.EphemeralContainers[i], path.Index(i)
		c := corev1.Container(ec.EphemeralContainerCommon)
		errs = append(errs, r.common(&c, at)...)
		errs = append(errs, validateImageName(c.Image, at.Child("image"))...)
		if names.Has(ec.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), ec.Name))
		}
		names.Insert(ec.Name)
		if ec.TargetContainerName != "" && !others.Has(ec.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), ec.TargetContainerName))
		}
		errs = append(errs, onlyFields(ec.EphemeralContainerCommon, ephemeralFields, never, at)...)
		for j, m := range ec.VolumeMounts {
			if m.SubPath != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), never))
			}
			if m.SubPathExpr != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), never))
			}
		}
	}
	return errs
}

// onlyFields refuses every field of the struct v that is set and not allowed, so
// that what a later version adds is refused until somebody has thought about it.
func onlyFields(v any, allowed sets.Set[string], why string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	value := reflect.ValueOf(v)
	for i := range value.NumField() {
		name := value.Type().Field(i).Name
		if !allowed.Has(name) && !value.Field(i).IsZero() {
			errs = append(errs, field.Forbidden(at.Child(strings.ToLower(name[:1])+name[1:]), why))
		}
	}
	return errs
}

// common checks what containers of all sorts share.
func (r *containerRules) common(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, validateDNS1123Label(c.Name, at.Child("name"))...)
	}
	if c.Image == "" {
		errs = append(errs, field.Required(at.Child("image"), ""))
	}
	errs = append(errs, oneOf(c.TerminationMessagePolicy, at.Child("terminationMessagePolicy"),
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, validateContainerPorts(c.Ports, at.Child("ports"))...)
	errs = append(errs, validateEnv(c.Env, at.Child("env"))...)
	errs = append(errs, validateEnvFrom(c.EnvFrom, at.Child("envFrom"))...)
	errs = append(errs, r.mounts(c, at.Child("volumeMounts"))...)
	errs = append(errs, r.devices(c, at.Child("volumeDevices"))...)
	errs = append(errs, validatePullPolicy(c.ImagePullPolicy, at.Child("imagePullPolicy"))...)
	errs = append(errs, validateResources(&c.Resources, r.spec.ResourceClaims, containerResourceName, at.Child("resources"))...)
	errs = append(errs, validateResizePolicy(c.ResizePolicy, r.spec.RestartPolicy, at.Child("resizePolicy"))...)
	hostUsers := r.spec.HostUsers == nil || *r.spec.HostUsers
	return append(errs, validateSecurityContext(c.SecurityContext, hostUsers, at.Child("securityContext"))...)
}

func validatePullPolicy(p corev1.PullPolicy, at *field.Path) field.ErrorList {
	return oneOf(p, at, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func validateResizePolicy(policies []corev1.ContainerResizePolicy, restart corev1.RestartPolicy, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, p := range policies {
		if seen.Has(p.ResourceName) {
			errs = append(errs, field.Duplicate(at.Index(i), p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		errs = append(errs, oneOf(p.ResourceName, at, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, oneOf(p.RestartPolicy, at, corev1.NotRequired, corev1.RestartContainer)...)
		if restart == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(at, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

// validateRestart checks when a container by itself is restarted.
func validateRestart(c *corev1.Container, at *field.Path) field.ErrorList {
	const maxRules, maxCodes = 20, 255
	var errs field.ErrorList
	switch p := c.RestartPolicy; {
	case p == nil && len(c.RestartPolicyRules) == 0:
		return nil
	case p == nil:
		errs = append(errs, field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	default:
		errs = append(errs, supported(*p, at.Child("restartPolicy"),
			corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	}
	rules := at.Child("restartPolicyRules")
	if n := len(c.RestartPolicyRules); n > maxRules {
		errs = append(errs, field.TooMany(rules, n, maxRules))
	}
	for i, rule := range c.RestartPolicyRules {
		to := rules.Index(i)
		errs = append(errs, supported(rule.Action, to.Child("action"), corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if rule.ExitCodes == nil {
			errs = append(errs, field.Required(to.Child("exitCodes"), "must be specified"))
			continue
		}
		errs = append(errs, supported(rule.ExitCodes.Operator, to.Child("exitCodes", "operator"),
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(rule.ExitCodes.Values); n > maxCodes {
			errs = append(errs, field.TooMany(to.Child("exitCodes", "values"), n, maxCodes))
		}
	}
	return errs
}

func validateContainerPorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			if msgs := utilvalidation.IsValidPortName(p.Name); len(msgs) > 0 {
				errs = append(errs, invalidFor(at.Child("name"), p.Name, msgs)...)
			} else if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			} else {
				names.Insert(p.Name)
			}
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, invalidFor(at.Child("containerPort"), p.ContainerPort, utilvalidation.IsValidPortNum(int(p.ContainerPort)))...)
		}
		if p.HostPort != 0 {
			errs = append(errs, invalidFor(at.Child("hostPort"), p.HostPort, utilvalidation.IsValidPortNum(int(p.HostPort)))...)
		}
		errs = append(errs, oneOf(p.Protocol, at.Child("protocol"), protocols...)...)
	}
	return errs
}

var protocols = []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}

// uniqueHostPorts refuses a port of the node that two of the containers want.
func uniqueHostPorts(containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, c := range containers {
		for j, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if seen.Has(key) {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			seen.Insert(key)
		}
	}
	return errs
}

func (r *containerRules) mounts(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	points := sets.New[string]()
	for i, m := range c.VolumeMounts {
		at := p.Index(i)
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		source, ok := r.volumes[m.Name]
		if !ok {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			errs = append(errs, field.Required(at.Child("mountPath"), ""))
		}
		if points.Has(m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		points.Insert(m.MountPath)
		if slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == m.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.DevicePath == m.MountPath }) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		// Here and below upstream's paths leave the index out.
		if m.SubPath != "" {
			errs = append(errs, validateLocalPath(m.SubPath, p.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, validateLocalPath(m.SubPathExpr, p.Child("subPathExpr"))...)
		}
		errs = append(errs, validatePropagation(&m, c, p)...)
		errs = append(errs, validateBindOptions(m.BindMountOptions, at.Child("bindMountOptions"))...)
		if len(m.BindMountOptions) > 0 && source.Image != nil {
			errs = append(errs, field.Invalid(at.Child("bindMountOptions"), m.BindMountOptions, "bindMountOptions may not be used with image volumes"))
		}
	}
	return errs
}

func validatePropagation(m *corev1.VolumeMount, c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if mode := m.MountPropagation; mode != nil {
		at := p.Child("mountPropagation")
		errs = append(errs, supported(*mode, at, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)...)
		privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		if *mode == corev1.MountPropagationBidirectional && !privileged {
			errs = append(errs, field.Forbidden(at, "Bidirectional mount propagation is available only to privileged containers"))
		}
	}
	if mode := m.RecursiveReadOnly; mode != nil {
		at := p.Child("recursiveReadOnly")
		errs = append(errs, supported(*mode, at, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)...)
		if *mode == corev1.RecursiveReadOnlyEnabled || *mode == corev1.RecursiveReadOnlyIfPossible {
			if !m.ReadOnly {
				errs = append(errs, field.Forbidden(at, "may only be specified when readOnly is true"))
			}
			if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
				errs = append(errs, field.Forbidden(at, "may only be specified when mountPropagation is None or not specified"))
			}
		}
	}
	return errs
}

func validateBindOptions(options []string, path *field.Path) field.ErrorList {
	known := []string{string(corev1.BindMountOptionNoDev), string(corev1.BindMountOptionNoExec), string(corev1.BindMountOptionNoSUID)}
	var errs field.ErrorList
	for i, o := range options {
		errs = append(errs, supported(o, path.Index(i), known...)...)
		if slices.Contains(options[:i], o) {
			errs = append(errs, field.Duplicate(path.Index(i), o))
		}
	}
	return errs
}

func (r *containerRules) devices(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names, paths := sets.New[string](), sets.New[string]()
	for i, d := range c.VolumeDevices {
		at := p.Index(i)
		wrong := func(child, value, why string) {
			errs = append(errs, field.Invalid(at.Child(child), value, why))
		}
		if d.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		if names.Has(d.Name) {
			wrong("name", d.Name, "must be unique")
		}
		source, ok := r.volumes[d.Name]
		if ok && source.PersistentVolumeClaim == nil && source.Ephemeral == nil {
			wrong("name", d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		if !ok {
			errs = append(errs, field.NotFound(at.Child("name"), d.Name))
		}
		if d.DevicePath == "" {
			errs = append(errs, field.Required(at.Child("devicePath"), ""))
		}
		if paths.Has(d.DevicePath) {
			wrong("devicePath", d.DevicePath, "must be unique")
		}
		if len(noBacksteps(d.DevicePath, at)) > 0 {
			wrong("devicePath", d.DevicePath, "can not contain backsteps ('..')")
		} else {
			paths.Insert(d.DevicePath)
		}
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == d.Name }) {
			wrong("name", d.Name, "must not already exist in volumeMounts")
		}
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == d.DevicePath }) {
			wrong("devicePath", d.DevicePath, "must not already exist as a path in volumeMounts")
		}
		if d.Name != "" {
			names.Insert(d.Name)
		}
	}
	return errs
}

// validateLocalPath wants a relative path that stays below where it starts.
func validateLocalPath(p string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(p) {
		errs = append(errs, field.Invalid(at, p, "must be a relative path"))
	}
	return append(errs, noBacksteps(p, at)...)
}

func noBacksteps(p string, at *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(filepath.ToSlash(p), "/"), "..") {
		return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
	}
	return nil
}
