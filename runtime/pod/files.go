package pod

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// DNS is what pods are told about name resolution.
type DNS struct {
	Servers []netip.Addr // for dnsPolicy ClusterFirst
	Domain  string
	Host    string // path of the node's own resolv.conf, for dnsPolicy Default
}

// hostname is the pod's, at most 63 characters and never ending in a dash or dot.
func hostname(pod *corev1.Pod) string {
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// maxKernelHostname is what fits into the kernel's name of a node (uname(2)).
const maxKernelHostname = 64

// kernelHostname is what a pod's containers are told as the name of their machine.
func kernelHostname(pod *corev1.Pod, domain string) (string, error) {
	name := hostname(pod)
	if o := pod.Spec.HostnameOverride; o != nil && *o != "" {
		return *o, nil
	}
	if set := pod.Spec.SetHostnameAsFQDN; set == nil || !*set || pod.Spec.Subdomain == "" {
		return name, nil
	}
	fqdn := fmt.Sprintf("%s.%s.%s.svc.%s", name, pod.Spec.Subdomain, pod.Namespace, domain)
	if len(fqdn) > maxKernelHostname {
		return "", fmt.Errorf("failed to construct FQDN from Pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", fqdn, maxKernelHostname, len(fqdn))
	}
	return fqdn, nil
}

func hostsFile(pod *corev1.Pod, ips []string, domain string) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	for _, ip := range ips {
		if sub := pod.Spec.Subdomain; sub != "" {
			fmt.Fprintf(&b, "%s\t%s.%s.%s.svc.%s\t%s\n", ip, hostname(pod), sub, pod.Namespace, domain, hostname(pod))
		} else {
			fmt.Fprintf(&b, "%s\t%s\n", ip, hostname(pod))
		}
	}
	writeAliases(&b, pod)
	return b.String()
}

func writeAliases(b *strings.Builder, pod *corev1.Pod) {
	if len(pod.Spec.HostAliases) == 0 {
		return
	}
	b.WriteString("\n# Entries added by HostAliases.\n")
	for _, a := range pod.Spec.HostAliases {
		fmt.Fprintf(b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
}

// resolver is the contents of a resolv.conf.
type resolver struct{ servers, searches, options []string }

func parseResolver(b []byte) (r resolver) {
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			r.servers = append(r.servers, f[1])
		case "search", "domain":
			r.searches = f[1:]
		case "options":
			r.options = append(r.options, f[1:]...)
		}
	}
	return r
}

func (r resolver) String() string {
	var b strings.Builder
	if len(r.searches) > 0 {
		b.WriteString("search " + strings.Join(r.searches, " ") + "\n")
	}
	for _, s := range r.servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(r.options) > 0 {
		b.WriteString("options " + strings.Join(r.options, " ") + "\n")
	}
	return b.String()
}

// resolvConf is a pod's resolv.conf by its dnsPolicy; host is the node's own.
func resolvConf(pod *corev1.Pod, dns DNS, host resolver) string {
	policy := pod.Spec.DNSPolicy
	if policy == "" {
		policy = corev1.DNSClusterFirst
	}
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork || policy != corev1.DNSNone && len(dns.Servers) == 0 {
		policy = corev1.DNSDefault
	}
	var r resolver
	switch policy {
	case corev1.DNSDefault:
		r = host
	case corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet:
		for _, a := range dns.Servers {
			r.servers = append(r.servers, a.String())
		}
		r.searches = append([]string{pod.Namespace + ".svc." + dns.Domain, "svc." + dns.Domain, dns.Domain}, host.searches...)
		r.options = append([]string{"ndots:5"}, withoutOption(host.options, "ndots")...)
	}
	if c := pod.Spec.DNSConfig; c != nil {
		r.servers = unique(append(slices.Clone(r.servers), c.Nameservers...))
		r.searches = unique(append(slices.Clone(r.searches), c.Searches...))
		for _, o := range c.Options {
			r.options = withoutOption(r.options, o.Name)
			if o.Value != nil && *o.Value != "" {
				r.options = append(r.options, o.Name+":"+*o.Value)
			} else {
				r.options = append(r.options, o.Name)
			}
		}
	}
	return r.String()
}

func withoutOption(options []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(options), func(o string) bool {
		n, _, _ := strings.Cut(o, ":")
		return n == name
	})
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// writeFiles makes the files that are bound into every container of the pod.
// They are written in place: a bind mount shows the inode it was made with.
func (w *Worker) writeFiles() error {
	hosts := hostsFile(w.rec.Pod, w.rec.IPs, w.deps.DNS.Domain)
	if w.rec.Pod.Spec.HostNetwork {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		var b strings.Builder
		b.WriteString("# Kubernetes-managed hosts file (host network).\n" + string(own))
		writeAliases(&b, w.rec.Pod)
		hosts = b.String()
	}
	own, err := os.ReadFile(w.deps.DNS.Host)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	host, err := kernelHostname(w.rec.Pod, w.deps.DNS.Domain)
	if err != nil {
		return err
	}
	for name, body := range map[string]string{"etc.hosts": hosts, "etc.hostname": host + "\n", "resolv.conf": resolvConf(w.rec.Pod, w.deps.DNS, parseResolver(own))} {
		if err := writeInPlace(filepath.Join(w.dir, name), body); err != nil {
			return err
		}
	}
	return nil
}

func writeInPlace(path, body string) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == body {
		return nil
	}
	return os.WriteFile(path, []byte(body), 0o644)
}
