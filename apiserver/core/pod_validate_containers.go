package core

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateContainers checks the containers of a pod against each other and
// against its volumes.
func validateContainers(s *corev1.PodSpec, volumes map[string]corev1.VolumeSource, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	unique := func(name string, at *field.Path) {
		if name != "" && names.Has(name) {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		names.Insert(name)
	}
	path := spec.Child("containers")
	if len(s.Containers) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	for i := range s.Containers {
		c, at := &s.Containers[i], path.Index(i)
		unique(c.Name, at)
		errs = append(errs, validateContainer(c, volumes, at)...)
		errs = append(errs, validateLifecycleAndProbes(c, s, at, false)...)
		if c.RestartPolicy != nil && len(c.RestartPolicyRules) == 0 && *c.RestartPolicy == "" {
			errs = append(errs, field.NotSupported(at.Child("restartPolicy"), *c.RestartPolicy, containerRestartPolicies))
		}
	}
	path = spec.Child("initContainers")
	for i := range s.InitContainers {
		c, at := &s.InitContainers[i], path.Index(i)
		unique(c.Name, at)
		errs = append(errs, validateContainer(c, volumes, at)...)
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		errs = append(errs, validateLifecycleAndProbes(c, s, at, !sidecar)...)
	}
	for i := range s.EphemeralContainers {
		c := corev1.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		at := spec.Child("ephemeralContainers").Index(i)
		unique(c.Name, at)
		errs = append(errs, validateContainer(&c, volumes, at)...)
	}
	return errs
}

var containerRestartPolicies = []corev1.ContainerRestartPolicy{
	corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure,
}

func validateContainer(c *corev1.Container, volumes map[string]corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, validateDNS1123Label(c.Name, at.Child("name"))...)
	}
	if c.Image == "" {
		errs = append(errs, field.Required(at.Child("image"), ""))
	} else if strings.TrimSpace(c.Image) != c.Image {
		errs = append(errs, field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	switch c.TerminationMessagePolicy {
	case corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError:
	case "":
		errs = append(errs, field.Required(at.Child("terminationMessagePolicy"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
			[]corev1.TerminationMessagePolicy{corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError}))
	}
	errs = append(errs, validateContainerPorts(c.Ports, at.Child("ports"))...)
	errs = append(errs, validateEnv(c.Env, at.Child("env"))...)
	errs = append(errs, validateEnvFrom(c.EnvFrom, at.Child("envFrom"))...)
	errs = append(errs, validateVolumeMounts(c.VolumeMounts, volumes, at.Child("volumeMounts"))...)
	errs = append(errs, oneOf(c.ImagePullPolicy, at.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, validateResources(&c.Resources, at.Child("resources"))...)
	if c.RestartPolicy != nil && *c.RestartPolicy != "" {
		errs = append(errs, oneOf(*c.RestartPolicy, at.Child("restartPolicy"), containerRestartPolicies...)...)
	}
	return append(errs, validateSecurityContext(c.SecurityContext, at.Child("securityContext"))...)
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
		if p.HostIP != "" {
			errs = append(errs, utilvalidation.IsValidIP(at.Child("hostIP"), p.HostIP)...)
		}
	}
	return errs
}

var protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}

// downwardFields are what fieldRef in the environment may name.
var downwardFields = []string{"metadata.name", "metadata.namespace", "metadata.uid",
	"spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}

func validateEnv(env []corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, e := range env {
		at := path.Index(i)
		if e.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, invalidFor(at.Child("name"), e.Name, utilvalidation.IsRelaxedEnvVarName(e.Name))...)
		}
		errs = append(errs, validateEnvFromSource(e, at.Child("valueFrom"))...)
	}
	return errs
}

func validateEnvFromSource(e corev1.EnvVar, at *field.Path) field.ErrorList {
	from := e.ValueFrom
	if from == nil {
		return nil
	}
	var errs field.ErrorList
	n := 0
	if f := from.FieldRef; f != nil {
		n++
		errs = append(errs, validateFieldRef(f, downwardFields, at.Child("fieldRef"))...)
	}
	if r := from.ResourceFieldRef; r != nil {
		n++
		if r.Resource == "" {
			errs = append(errs, field.Required(at.Child("resourceFieldRef", "resource"), ""))
		}
	}
	ref := func(child, name, key string) {
		n++
		if name == "" {
			errs = append(errs, field.Required(at.Child(child, "name"), ""))
		}
		if key == "" {
			errs = append(errs, field.Required(at.Child(child, "key"), ""))
		} else {
			errs = append(errs, invalidFor(at.Child(child, "key"), key, utilvalidation.IsConfigMapKey(key))...)
		}
	}
	if r := from.ConfigMapKeyRef; r != nil {
		ref("configMapKeyRef", r.Name, r.Key)
	}
	if r := from.SecretKeyRef; r != nil {
		ref("secretKeyRef", r.Name, r.Key)
	}
	if from.FileKeyRef != nil {
		n++
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func validateFieldRef(f *corev1.ObjectFieldSelector, known []string, at *field.Path) field.ErrorList {
	if f.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	if f.FieldPath == "" {
		return field.ErrorList{field.Required(at.Child("fieldPath"), "")}
	}
	if base, key, ok := subscript(f.FieldPath); ok {
		switch base {
		case "metadata.annotations":
			return invalidFor(at, key, utilvalidation.IsQualifiedName(strings.ToLower(key)))
		case "metadata.labels":
			return invalidFor(at, key, utilvalidation.IsQualifiedName(key))
		}
		return field.ErrorList{field.Invalid(at, f.FieldPath, fmt.Sprintf("fieldPath %q does not support subscript", f.FieldPath))}
	}
	for _, k := range known {
		if f.FieldPath == k {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(at.Child("fieldPath"), f.FieldPath, sets.List(sets.New(known...)))}
}

// subscript splits metadata.labels['key'].
func subscript(p string) (base, key string, ok bool) {
	if !strings.HasSuffix(p, "']") {
		return p, "", false
	}
	base, key, ok = strings.Cut(strings.TrimSuffix(p, "']"), "['")
	return base, key, ok && base != ""
}

func validateEnvFrom(sources []corev1.EnvFromSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, s := range sources {
		at := path.Index(i)
		if s.Prefix != "" {
			errs = append(errs, invalidFor(at.Child("prefix"), s.Prefix, utilvalidation.IsRelaxedEnvVarName(s.Prefix))...)
		}
		n := 0
		if s.ConfigMapRef != nil {
			n++
			if s.ConfigMapRef.Name == "" {
				errs = append(errs, field.Required(at.Child("configMapRef", "name"), ""))
			}
		}
		if s.SecretRef != nil {
			n++
			if s.SecretRef.Name == "" {
				errs = append(errs, field.Required(at.Child("secretRef", "name"), ""))
			}
		}
		switch {
		case n == 0:
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		case n > 1:
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

func validateVolumeMounts(mounts []corev1.VolumeMount, volumes map[string]corev1.VolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	points := sets.New[string]()
	for i, m := range mounts {
		at := p.Index(i)
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		if _, ok := volumes[m.Name]; !ok {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			errs = append(errs, field.Required(at.Child("mountPath"), ""))
		}
		if points.Has(m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		points.Insert(m.MountPath)
		if m.SubPath != "" {
			errs = append(errs, validateLocalPath(m.SubPath, at.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, validateLocalPath(m.SubPathExpr, at.Child("subPathExpr"))...)
		}
		if m.MountPropagation != nil {
			errs = append(errs, oneOf(*m.MountPropagation, at.Child("mountPropagation"),
				corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)...)
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
	for _, part := range strings.Split(filepath.ToSlash(p), "/") {
		if part == ".." {
			return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
		}
	}
	return nil
}

func validateLifecycleAndProbes(c *corev1.Container, s *corev1.PodSpec, at *field.Path, plainInit bool) field.ErrorList {
	var errs field.ErrorList
	if plainInit {
		forbid := func(set bool, child string) {
			if set {
				errs = append(errs, field.Forbidden(at.Child(child), "may not be set for init containers without restartPolicy=Always"))
			}
		}
		forbid(c.Lifecycle != nil, "lifecycle")
		forbid(c.LivenessProbe != nil, "livenessProbe")
		forbid(c.ReadinessProbe != nil, "readinessProbe")
		forbid(c.StartupProbe != nil, "startupProbe")
		return errs
	}
	if l := c.Lifecycle; l != nil {
		if l.PostStart != nil {
			errs = append(errs, validateHandler(handlerOf(l.PostStart), at.Child("lifecycle", "postStart"))...)
		}
		if l.PreStop != nil {
			errs = append(errs, validateHandler(handlerOf(l.PreStop), at.Child("lifecycle", "preStop"))...)
			if l.PreStop.Sleep != nil && s.TerminationGracePeriodSeconds != nil && l.PreStop.Sleep.Seconds > *s.TerminationGracePeriodSeconds {
				errs = append(errs, field.Invalid(at.Child("lifecycle", "preStop", "sleep"), l.PreStop.Sleep.Seconds, fmt.Sprintf("must be greater than 0 and less than terminationGracePeriodSeconds (%d). Enable AllowPreStopHookSleepZero to allow zero sleep.", *s.TerminationGracePeriodSeconds)))
			}
		}
	}
	errs = append(errs, validateProbe(c.LivenessProbe, at.Child("livenessProbe"), true)...)
	errs = append(errs, validateProbe(c.StartupProbe, at.Child("startupProbe"), true)...)
	return append(errs, validateProbe(c.ReadinessProbe, at.Child("readinessProbe"), false)...)
}

func validateProbe(p *corev1.Probe, at *field.Path, once bool) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateHandler(handler{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, at)
	for _, v := range []struct {
		value int32
		name  string
	}{
		{p.InitialDelaySeconds, "initialDelaySeconds"}, {p.TimeoutSeconds, "timeoutSeconds"},
		{p.PeriodSeconds, "periodSeconds"}, {p.SuccessThreshold, "successThreshold"}, {p.FailureThreshold, "failureThreshold"},
	} {
		errs = append(errs, nonNegative(int64(v.value), at.Child(v.name))...)
	}
	if once && p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	if p.TerminationGracePeriodSeconds != nil {
		if !once || strings.HasSuffix(at.String(), "readinessProbe") {
			errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
		} else if *p.TerminationGracePeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must be greater than 0"))
		}
	}
	return errs
}

// handler is what probes and lifecycle hooks have in common.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func handlerOf(h *corev1.LifecycleHandler) handler {
	return handler{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}
}

func validateHandler(h handler, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := 0
	one := func(child string) bool {
		n++
		if n > 1 {
			errs = append(errs, field.Forbidden(at.Child(child), "may not specify more than 1 handler type"))
		}
		return n == 1
	}
	if h.exec != nil && one("exec") && len(h.exec.Command) == 0 {
		errs = append(errs, field.Required(at.Child("exec", "command"), ""))
	}
	if h.http != nil && one("httpGet") {
		to := at.Child("httpGet")
		if h.http.Path == "" {
			errs = append(errs, field.Required(to.Child("path"), ""))
		}
		errs = append(errs, validatePortNumOrName(h.http.Port, to.Child("port"))...)
		errs = append(errs, oneOf(h.http.Scheme, to.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
		for i, header := range h.http.HTTPHeaders {
			errs = append(errs, invalidFor(to.Child("httpHeaders").Index(i).Child("name"), header.Name, utilvalidation.IsHTTPHeaderName(header.Name))...)
		}
	}
	if h.tcp != nil && one("tcpSocket") {
		errs = append(errs, validatePortNumOrName(h.tcp.Port, at.Child("tcpSocket", "port"))...)
	}
	if h.grpc != nil && one("grpc") {
		errs = append(errs, validatePortNumOrName(intstr.FromInt32(h.grpc.Port), at.Child("grpc", "port"))...)
	}
	if h.sleep != nil && one("sleep") && h.sleep.Seconds < 0 {
		errs = append(errs, field.Invalid(at.Child("sleep", "seconds"), h.sleep.Seconds, validation.IsNegativeErrorMsg))
	}
	if n == 0 {
		errs = append(errs, field.Required(at, "must specify a handler type"))
	}
	return errs
}

func validatePortNumOrName(port intstr.IntOrString, at *field.Path) field.ErrorList {
	if port.Type == intstr.Int {
		return invalidFor(at, port.IntValue(), utilvalidation.IsValidPortNum(port.IntValue()))
	}
	return invalidFor(at, port.StrVal, utilvalidation.IsValidPortName(port.StrVal))
}
