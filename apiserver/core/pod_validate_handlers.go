package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (r *containerRules) lifecycleAndProbes(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	grace := r.spec.TerminationGracePeriodSeconds
	if l := c.Lifecycle; l != nil {
		if l.PostStart != nil {
			errs = append(errs, validateHandler(handlerOf(l.PostStart), grace, at.Child("lifecycle", "postStart"))...)
		}
		if l.PreStop != nil {
			errs = append(errs, validateHandler(handlerOf(l.PreStop), grace, at.Child("lifecycle", "preStop"))...)
		}
		if l.StopSignal != nil {
			errs = append(errs, validateStopSignal(l.StopSignal, r.spec.OS, at.Child("lifecycle", "stopSignal"))...)
		}
	}
	once := func(p *corev1.Probe, at *field.Path) {
		errs = append(errs, validateProbe(p, grace, at)...)
		if p != nil && p.SuccessThreshold != 1 {
			errs = append(errs, field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
		}
	}
	once(c.LivenessProbe, at.Child("livenessProbe"))
	ready := at.Child("readinessProbe")
	errs = append(errs, validateProbe(c.ReadinessProbe, grace, ready)...)
	if p := c.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(ready.Child("terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	once(c.StartupProbe, at.Child("startupProbe"))
	return errs
}

func validateProbe(p *corev1.Probe, grace *int64, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateHandler(handler{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, grace, at)
	for _, v := range []struct {
		value int32
		name  string
	}{
		{p.InitialDelaySeconds, "initialDelaySeconds"}, {p.TimeoutSeconds, "timeoutSeconds"},
		{p.PeriodSeconds, "periodSeconds"}, {p.SuccessThreshold, "successThreshold"}, {p.FailureThreshold, "failureThreshold"},
	} {
		errs = append(errs, nonNegative(int64(v.value), at.Child(v.name))...)
	}
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	return errs
}

// signals are what a container on Linux can be stopped with.
var signals = linuxSignals()

func linuxSignals() sets.Set[corev1.Signal] {
	out := sets.New[corev1.Signal]()
	for _, name := range []string{"ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
		"PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH",
		"XCPU", "XFSZ", "RTMIN", "RTMAX"} {
		out.Insert(corev1.Signal("SIG" + name))
	}
	for i := 1; i <= 15; i++ {
		out.Insert(corev1.Signal(fmt.Sprintf("SIGRTMIN+%d", i)))
	}
	for i := 1; i <= 14; i++ {
		out.Insert(corev1.Signal(fmt.Sprintf("SIGRTMAX-%d", i)))
	}
	return out
}

func validateStopSignal(signal *corev1.Signal, os *corev1.PodOS, at *field.Path) field.ErrorList {
	switch {
	case os == nil:
		return field.ErrorList{field.Forbidden(at, "may not be set for containers with empty `spec.os.name`")}
	case os.Name == corev1.Windows && *signal != corev1.SIGKILL && *signal != corev1.SIGTERM:
		return field.ErrorList{field.NotSupported(at, signal, []corev1.Signal{corev1.SIGKILL, corev1.SIGTERM})}
	case os.Name == corev1.Linux && !signals.Has(*signal):
		return field.ErrorList{field.NotSupported(at, signal, sets.List(signals))}
	}
	return nil
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

// validateHandler checks what is done; grace is the time a pod has to end.
func validateHandler(h handler, grace *int64, at *field.Path) field.ErrorList {
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
		errs = append(errs, validateHTTPGet(h.http, at.Child("httpGet"))...)
	}
	if h.tcp != nil && one("tcpSocket") {
		errs = append(errs, validatePortNumOrName(h.tcp.Port, at.Child("tcpSocket", "port"))...)
	}
	if h.grpc != nil && one("grpc") {
		errs = append(errs, validatePortNumOrName(intstr.FromInt32(h.grpc.Port), at.Child("grpc", "port"))...)
		if m := h.grpc.Mode; m != nil {
			errs = append(errs, supported(*m, at.Child("grpc", "mode"), corev1.GRPCProbeModePlaintext, corev1.GRPCProbeModeTLS)...)
		}
	}
	if h.sleep != nil && one("sleep") && grace != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *grace) {
		errs = append(errs, field.Invalid(at.Child("sleep"), h.sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace)))
	}
	if n == 0 {
		errs = append(errs, field.Required(at, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(h *corev1.HTTPGetAction, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if h.Path == "" {
		errs = append(errs, field.Required(at.Child("path"), ""))
	}
	errs = append(errs, validatePortNumOrName(h.Port, at.Child("port"))...)
	errs = append(errs, supported(h.Scheme, at.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range h.HTTPHeaders {
		errs = append(errs, invalidFor(at.Child("httpHeaders"), header.Name, utilvalidation.IsHTTPHeaderName(header.Name))...)
	}
	if p := h.Protocol; p != nil {
		bad := supported(*p, at.Child("protocol"), corev1.HTTPProtocolHTTP1, corev1.HTTPProtocolHTTP2)
		switch {
		case len(bad) > 0:
			errs = append(errs, bad...)
		case *p == corev1.HTTPProtocolHTTP2 && h.Scheme != corev1.URISchemeHTTP:
			errs = append(errs, field.Invalid(at.Child("protocol"), *p, "is only supported with HTTP (H2C)"))
		case *p == corev1.HTTPProtocolHTTP2 && h.Host != "":
			errs = append(errs, field.Invalid(at.Child("host"), h.Host, "must be empty when `protocol` is \"HTTP2\""))
		}
	}
	return errs
}

func validatePortNumOrName(port intstr.IntOrString, at *field.Path) field.ErrorList {
	if port.Type == intstr.Int {
		return invalidFor(at, port.IntValue(), utilvalidation.IsValidPortNum(port.IntValue()))
	}
	return invalidFor(at, port.StrVal, utilvalidation.IsValidPortName(port.StrVal))
}
