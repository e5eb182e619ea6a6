package apiserver

import (
	"runtime"

	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/version"
	basecompatibility "k8s.io/component-base/compatibility"
)

// KubernetesVersion is the version of the API that is served.
const KubernetesVersion = "1.37.2"

// apiVersion is the API's version, with Kontiki's own as build metadata. The
// library would tell what the linker wrote into its own package.
type apiVersion struct {
	basecompatibility.EffectiveVersion
	own string
}

func newAPIVersion(own string) apiVersion {
	v := utilversion.MustParseSemantic(KubernetesVersion)
	floor := utilversion.MajorMinor(0, 0)
	return apiVersion{basecompatibility.NewEffectiveVersion(v, false, floor, floor), own}
}

// Info is what /version answers.
func (v apiVersion) Info() *version.Info {
	info := v.EffectiveVersion.Info()
	info.GitVersion = "v" + KubernetesVersion
	if v.own != "" {
		info.GitVersion += "+kontiki." + v.own
	}
	info.GitCommit, info.GitTreeState, info.BuildDate = "", "", ""
	info.GoVersion, info.Compiler, info.Platform = runtime.Version(), runtime.Compiler, runtime.GOOS+"/"+runtime.GOARCH
	return info
}
