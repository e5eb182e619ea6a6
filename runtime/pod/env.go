package pod

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
)

// expand replaces $(NAME) by what lookup knows; $$ is a dollar sign; unknown
// references stay as they are (as upstream's API documents for command, args and env).
func expand(s string, lookup map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			if v, ok := lookup[s[i+2:i+end]]; ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// environment builds a container's variables: Services, then envFrom, then env,
// each overriding those before it.
func (s *sources) environment(c *corev1.Container) (map[string]string, error) {
	vars := map[string]string{}
	if s.pod.Spec.EnableServiceLinks == nil || *s.pod.Spec.EnableServiceLinks {
		serviceVars(vars, s.services(s.pod.Namespace), s.pod.Namespace)
	} else {
		serviceVars(vars, s.services(""), "")
	}
	for _, from := range c.EnvFrom {
		data, err := s.envFrom(from)
		if err != nil {
			return nil, err
		}
		for k, v := range data {
			vars[from.Prefix+k] = v
		}
	}
	known := maps.Clone(vars)
	for _, e := range c.Env {
		v := expand(e.Value, known)
		if e.ValueFrom != nil {
			value, ok, err := s.valueFrom(e.ValueFrom, c)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			v = value
		}
		vars[e.Name], known[e.Name] = v, v
	}
	return vars, nil
}

func (s *sources) envFrom(from corev1.EnvFromSource) (map[string]string, error) {
	data := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, err := s.objects.ConfigMap(s.ctx, s.pod.Namespace, from.ConfigMapRef.Name)
		if optional(from.ConfigMapRef.Optional) && apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(data, cm.Data)
	case from.SecretRef != nil:
		secret, err := s.objects.Secret(s.ctx, s.pod.Namespace, from.SecretRef.Name)
		if optional(from.SecretRef.Optional) && apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for k, v := range secret.Data {
			data[k] = string(v)
		}
	}
	return data, nil
}

func optional(b *bool) bool { return b != nil && *b }

func (s *sources) valueFrom(from *corev1.EnvVarSource, c *corev1.Container) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = s.field(from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = s.resource(from.ResourceFieldRef, c.Name)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := s.objects.ConfigMap(s.ctx, s.pod.Namespace, ref.Name)
		if err != nil {
			if optional(ref.Optional) && apierrors.IsNotFound(err) {
				return "", false, nil
			}
			return "", false, err
		}
		if v, ok := cm.Data[ref.Key]; ok {
			return v, true, nil
		}
		if optional(ref.Optional) {
			return "", false, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, s.pod.Namespace, ref.Name)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := s.objects.Secret(s.ctx, s.pod.Namespace, ref.Name)
		if err != nil {
			if optional(ref.Optional) && apierrors.IsNotFound(err) {
				return "", false, nil
			}
			return "", false, err
		}
		if v, ok := secret.Data[ref.Key]; ok {
			return string(v), true, nil
		}
		if optional(ref.Optional) {
			return "", false, nil
		}
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, s.pod.Namespace, ref.Name)
	}
	return "", false, fmt.Errorf("env value has a source this node does not know")
}

// field is the downward API's view of the pod.
func (s *sources) field(path string) (string, error) {
	if base, key, ok := strings.Cut(path, "['"); ok && strings.HasSuffix(key, "']") {
		key = strings.TrimSuffix(key, "']")
		switch base {
		case "metadata.labels":
			return s.pod.Labels[key], nil
		case "metadata.annotations":
			return s.pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return s.pod.Name, nil
	case "metadata.namespace":
		return s.pod.Namespace, nil
	case "metadata.uid":
		return string(s.pod.UID), nil
	case "metadata.labels":
		return formatMap(s.pod.Labels), nil
	case "metadata.annotations":
		return formatMap(s.pod.Annotations), nil
	case "spec.nodeName":
		return s.pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return s.pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(s.hostIPs), nil
	case "status.hostIPs":
		return strings.Join(s.hostIPs, ","), nil
	case "status.podIP":
		return first(s.podIPs), nil
	case "status.podIPs":
		return strings.Join(s.podIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func formatMap(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%v=%q\n", k, m[k])
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (s *sources) resource(ref *corev1.ResourceFieldSelector, own string) (string, error) {
	name := ref.ContainerName
	if name == "" {
		name = own
	}
	var c *corev1.Container
	for _, list := range [][]corev1.Container{s.pod.Spec.InitContainers, s.pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				c = &list[i]
			}
		}
	}
	if c == nil {
		return "", fmt.Errorf("container %s not found", name)
	}
	kind, res, ok := strings.Cut(ref.Resource, ".")
	list := c.Resources.Requests
	if kind == "limits" {
		list = c.Resources.Limits
	} else if kind != "requests" || !ok {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	q, ok := list[corev1.ResourceName(res)]
	if !ok && kind == "limits" {
		q = s.allocatable[corev1.ResourceName(res)] // no limit: all the node can give
	}
	return divide(q, ref.Divisor, res == "cpu"), nil
}

// divide rounds up, in thousandths for CPU.
func divide(q, by resource.Quantity, milli bool) string {
	if by.IsZero() {
		by = resource.MustParse("1")
	}
	n, d := q.Value(), by.Value()
	if milli {
		n, d = q.MilliValue(), by.MilliValue()
	}
	if d <= 0 {
		d = 1
	}
	return strconv.FormatInt((n+d-1)/d, 10)
}

// serviceVars adds the variables of a namespace's Services, and of the
// kubernetes Service for all, in the form docker links had.
func serviceVars(vars map[string]string, services []*corev1.Service, namespace string) {
	for _, svc := range services {
		master := svc.Namespace == corev1.NamespaceDefault && svc.Name == "kubernetes"
		if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone || len(svc.Spec.Ports) == 0 || !(master || svc.Namespace == namespace) {
			continue
		}
		ip, name := svc.Spec.ClusterIP, strings.ToUpper(strings.ReplaceAll(svc.Name, "-", "_"))
		if master && namespace != corev1.NamespaceDefault {
			if _, taken := vars[name+"_SERVICE_HOST"]; taken {
				continue
			}
		}
		vars[name+"_SERVICE_HOST"] = ip
		vars[name+"_SERVICE_PORT"] = strconv.Itoa(int(svc.Spec.Ports[0].Port))
		for i, p := range svc.Spec.Ports {
			if p.Name != "" {
				vars[name+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = strconv.Itoa(int(p.Port))
			}
			proto := corev1.ProtocolTCP
			if p.Protocol != "" {
				proto = p.Protocol
			}
			url := fmt.Sprintf("%s://%s", strings.ToLower(string(proto)), net.JoinHostPort(ip, strconv.Itoa(int(p.Port))))
			if i == 0 {
				vars[name+"_PORT"] = url
			}
			prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Port, strings.ToUpper(string(proto)))
			vars[prefix] = url
			vars[prefix+"_PROTO"] = strings.ToLower(string(proto))
			vars[prefix+"_PORT"] = strconv.Itoa(int(p.Port))
			vars[prefix+"_ADDR"] = ip
		}
	}
}
